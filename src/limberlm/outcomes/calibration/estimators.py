"""Calibration errors, and what a top-label Brier score is made of.

All of them read two arrays [n]: `confidence`, the probability of the answer that was given, in [0, 1], and `correct`,
whether it was right, 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.calibration.binned import BINS, Binned, checked


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: sum_b (n_b / n) |acc_b - conf_b| over equal-width bins, in [0, 1].

    Biased up: calibrated answers do not read 0 but `ece_null`. Source: Naeini et al. 2015; Guo et al. 1706.04599, whose
    number of bins is the default.

    Raises:
        ValueError: no answers, unlike lengths, or values out of range.

    >>> round(ece([0.9, 0.92, 0.6, 0.61], [1, 1, 0, 1]), 6)
    0.0975
    """
    return float(Binned.equal_width(confidence, correct, bins).error_items().mean())


def ece_adaptive(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """The calibration error over bins of equal mass, in [0, 1]: sees more where confidences crowd.

    Biased up, more than `ece` where confidences leave bins of that empty. Ties share a bin (our choice). Source:
    Nguyen and O'Connor 1508.05154; Nixon et al. 1904.01685.

    Raises:
        ValueError: as `ece`.

    >>> round(ece_adaptive([0.9, 0.92, 0.6, 0.61], [1, 1, 0, 1], bins=2), 6)
    0.0975
    """
    return float(Binned.equal_mass(confidence, correct, bins).error_items().mean())


def ece_null(confidence: ArrayLike, bins: int = BINS, *, adaptive: bool = False) -> float:
    """What `ece` (or `ece_adaptive`) would read on average were the same confidences calibrated.

    sum_b (n_b / n) sqrt(2 v_b / (pi n_b)), v_b the bin's mean of c (1 - c): the mean size of normal noise of that
    variance, so an approximation where bins hold few answers. It is also about the most by which an error can be too
    high on average, for |gap + noise| exceeds |gap| by at most |noise|. Derived here.

    Raises:
        ValueError: no answers, or values out of range.

    >>> round(ece_null([0.5] * 100), 4), round(0.5 * (2 / 3.14159265 / 100) ** 0.5, 4)
    (0.0399, 0.0399)
    """
    binned = (Binned.equal_mass if adaptive else Binned.equal_width)(confidence, np.zeros(np.shape(confidence)), bins)
    return float(binned.null_items().mean())


class Debiased(NamedTuple):
    """A debiased squared calibration error, and how many bins and answers were left out of it."""

    value: float
    skipped_bins: int
    skipped_answers: int


def ece2_debiased(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Debiased:
    """Squared calibration error less its bias: sum_b (n_b / n) [(acc_b - conf_b)^2 - acc_b (1 - acc_b) / (n_b - 1)].

    Equal-width bins; those with one answer are skipped and counted. 0 on average for calibrated answers, so it may be
    negative: the sign is kept, for a mean over many needs it, and no root is taken. Source: Kumar et al. 1909.10155.

    Raises:
        Undefined: no bin holds two answers.
        ValueError: no answers, unlike lengths, or values out of range.

    >>> result = ece2_debiased([0.9, 0.9, 0.9, 0.9, 0.3], [1, 1, 1, 0, 0])
    >>> round(result.value, 6), result.skipped_bins, result.skipped_answers
    (-0.032, 1, 1)
    """
    binned = Binned.equal_width(confidence, correct, bins)
    if binned.count.max() < 2:
        raise Undefined("no bin holds two answers")
    alone = int((binned.count == 1).sum())
    return Debiased(float(binned.squared_items().mean()), alone, alone)


def brier_top(confidence: ArrayLike, correct: ArrayLike) -> float:
    """Brier score of the answer given: mean (c - y)^2, in [0, 1]; lower is better, and honest confidence is best.

    Raises:
        ValueError: no answers, unlike lengths, or values out of range.

    >>> brier_top([0.5, 1.0], [1, 1])
    0.125
    """
    c, y = checked(confidence, correct)
    return float(((c - y) ** 2).mean())


class BrierTerms(NamedTuple):
    """What `brier_top` is made of: reliability - resolution + uncertainty + within_variance - within_covariance."""

    reliability: float
    resolution: float
    uncertainty: float
    within_variance: float
    within_covariance: float

    @property
    def total(self) -> float:
        """The score itself."""
        return self.reliability - self.resolution + self.uncertainty + self.within_variance - self.within_covariance


def brier_decomposition(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> BrierTerms:
    """The five terms whose signed sum is `brier_top` exactly, over equal-width bins.

    With acc_b, conf_b the means of bin b and acc that of all: reliability sum_b (n_b / n) (conf_b - acc_b)^2,
    resolution sum_b (n_b / n) (acc_b - acc)^2, uncertainty acc (1 - acc), within_variance sum_b sum (c - conf_b)^2 / n,
    within_covariance 2 sum_b sum (c - conf_b) (y - acc_b) / n. The first three alone are exact only where confidences
    are equal within bins. Reliability is biased up as ECE is. Source: Murphy 1973; Stephenson et al. 2008.

    Raises:
        ValueError: no answers, unlike lengths, or values out of range.

    >>> terms = brier_decomposition([0.9, 0.92, 0.6, 0.61], [1, 1, 0, 1])
    >>> round(terms.total, 12) == round(brier_top([0.9, 0.92, 0.6, 0.61], [1, 1, 0, 1]), 12)
    True
    """
    items = Binned.equal_width(confidence, correct, bins).term_items()
    return BrierTerms(**{name: float(values.mean()) for name, values in items.items()})
