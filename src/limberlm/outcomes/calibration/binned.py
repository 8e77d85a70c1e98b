"""Confidence against accuracy, bin by bin: the sums behind calibration errors, and the reliability table.

All of them read two arrays [n]: `confidence`, the probability of the answer that was given, in [0, 1], and `correct`,
whether it was right, 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from limberlm.outcomes.table import wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 15


@dataclass(frozen=True, eq=False)
class Binned:
    """Answers sorted into bins of like confidence: `confidence`, `correct` and `bin` [n] each, `bins` in all.

    Properties hold one number per bin, [bins], NaN where a mean is over none; the `*_items` one per answer, [n], whose
    mean is the quantity named.
    """

    confidence: Floats
    correct: Floats
    bin: Ints
    bins: int

    def __post_init__(self) -> None:
        if not isinstance(self.bins, int | np.integer) or self.bins < 1:
            raise ValueError(f"bins={self.bins}: must be a whole number, 1 or more")

    @classmethod
    def equal_width(cls, confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Binned:
        """Bins [b/B, (b+1)/B), the last one closed.

        Raises:
            ValueError: no answers, unlike lengths, or values out of range.

        """
        c, y = checked(confidence, correct)
        inner = np.arange(1, bins) / bins
        return cls(c, y, np.searchsorted(inner, c, side="right").astype(np.int64), bins)

    @classmethod
    def equal_mass(cls, confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Binned:
        """Bins of as nearly equal numbers of answers as ties allow: floor(B (rank - 1/2) / n).

        Ranks are averaged over ties, so equal confidences share a bin and the order of the answers decides nothing.

        Raises:
            ValueError: as `equal_width`.

        """
        c, y = checked(confidence, correct)
        place = np.floor(bins * (rankdata(c) - 0.5) / len(c)).astype(np.int64)
        return cls(c, y, place, bins)

    @property
    def count(self) -> Ints:
        """Answers in each bin."""
        return np.bincount(self.bin, minlength=self.bins).astype(np.int64)

    @property
    def gap(self) -> Floats:
        """Sum of confidence minus correctness in each bin."""
        return self._sums(self.confidence - self.correct)

    @property
    def mean_confidence(self) -> Floats:
        """Mean confidence of each bin."""
        return self._means(self.confidence)

    @property
    def accuracy(self) -> Floats:
        """Share of right answers of each bin."""
        return self._means(self.correct)

    def error_items(self) -> Floats:
        """Of the calibration error: c - y with the sign of its bin's gap, which is also the answer's influence."""
        signs: Floats = np.sign(self.gap)[self.bin]
        return signs * (self.confidence - self.correct)

    def null_items(self) -> Floats:
        """Of the error that calibrated answers would show: sqrt(2 v_b / (pi n_b)), v_b the bin's mean of c (1 - c)."""
        spread = self._means(self.confidence * (1 - self.confidence))
        noise: Floats = np.sqrt(2 * spread / (np.pi * np.maximum(self.count, 1)))
        return noise[self.bin]

    def squared_items(self) -> Floats:
        """Of the debiased squared error: delete-one pseudo-values, moved so that their mean is the error itself."""
        n, gap, right = self.count[self.bin], self.gap[self.bin], self._sums(self.correct)[self.bin]
        whole = float(_squared(self.count, self.gap, self._sums(self.correct)).sum())
        without = _squared(n - 1, gap - (self.confidence - self.correct), right - self.correct)
        left = (whole - _squared(n, gap, right) + without) / max(len(self.bin) - 1, 1)
        pseudo = whole - (len(self.bin) - 1) * left
        return np.asarray(pseudo + (whole / len(self.bin) - pseudo.mean()))

    def term_items(self) -> dict[str, Floats]:
        """Of the five terms of the top-label Brier score, by name."""
        c, y = self.mean_confidence[self.bin], self.accuracy[self.bin]
        base = self.correct.mean()
        return {
            "reliability": (c - y) ** 2,
            "resolution": (y - base) ** 2,
            "uncertainty": np.full(len(y), base * (1 - base)),
            "within_variance": (self.confidence - c) ** 2,
            "within_covariance": 2 * (self.confidence - c) * (self.correct - y),
        }

    def _sums(self, values: Floats) -> Floats:
        return np.bincount(self.bin, values, minlength=self.bins).astype(np.float64)

    def _means(self, values: Floats) -> Floats:
        count = self.count
        return np.where(count > 0, self._sums(values) / np.maximum(count, 1), np.nan)


def reliability_table(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, *, adaptive: bool = False
) -> pd.DataFrame:
    """The reliability diagram as a table, one row per bin that holds answers, in order of confidence.

    Columns: `bin`, `n`, `lowest` and `highest` confidence in it, mean `confidence`, `accuracy` with Wilson's 95 %
    interval `low` and `high`. The interval takes the answers of a bin for independent, as tokens of one passage are not
    quite.

    Raises:
        ValueError: no answers, unlike lengths, or values out of range.

    >>> reliability_table([0.9, 0.92, 0.6, 0.61], [1, 1, 0, 1])[["bin", "n", "accuracy"]].values.tolist()
    [[9.0, 2.0, 0.5], [13.0, 2.0, 1.0]]
    """
    binned = (Binned.equal_mass if adaptive else Binned.equal_width)(confidence, correct, bins)
    order = np.argsort(binned.bin, kind="stable")
    numbers, starts, n = np.unique(binned.bin[order], return_index=True, return_counts=True)
    c, right = binned.confidence[order], np.add.reduceat(binned.correct[order], starts)
    intervals = [wilson(share, int(count)) for share, count in zip((right / n).tolist(), n.tolist(), strict=True)]
    columns = {
        "bin": numbers,
        "n": n,
        "lowest": np.minimum.reduceat(c, starts),
        "highest": np.maximum.reduceat(c, starts),
        "confidence": np.add.reduceat(c, starts) / n,
        "accuracy": right / n,
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
    }
    return pd.DataFrame(columns)


def checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 [n].

    Raises:
        ValueError: no answers, unlike lengths, a confidence outside [0, 1] or a correctness other than 0 and 1.

    """
    c, y = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if c.ndim != 1 or c.shape != y.shape or not len(c):
        raise ValueError(f"confidence and correct must be one number per answer, not {c.shape} and {y.shape}")
    if not ((c >= 0) & (c <= 1)).all():
        raise ValueError("a confidence is not in [0, 1]")
    if not ((y == 0) | (y == 1)).all():
        raise ValueError("correct must be 0 or 1")
    return c, y


def _squared(n: Ints, gap: Floats, right: Floats) -> Floats:
    """A bin's count times its debiased squared gap, from sums; 0 below two answers."""
    m = np.maximum(n, 2)
    return np.where(n >= 2, gap**2 / m - right * (1 - right / m) / (m - 1), 0.0)
