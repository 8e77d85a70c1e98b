"""What two checkpoints differ by, pair by pair, and the interval of the mean difference."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import FiniteFloat
from scipy.special import stdtrit

Kind = Literal["blocks", "counts", "items"]
Floats = NDArray[np.float64]

FEWEST = 8
"""Pairs below which there is no interval, as for the jackknife (our choice)."""
RESAMPLES = 9999
_AT_ONCE = 2_000_000  # resampled items in memory


@dataclass(frozen=True)
class Interval:
    """A mean difference with its standard error and the two ends of its interval, on the scale of decisions."""

    change: float
    std_error: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Differences, candidate minus baseline.

    `kind` says of what: `blocks`, the delete-one-block pseudo-values of a metric's difference (of logarithms for those
    on the log scale); `counts`, answers right or wrong, so -1, 0 or 1 for each item; `items`, any other scores.
    """

    kind: Kind
    values: tuple[FiniteFloat, ...]

    def degrees(self) -> float:
        """Degrees of freedom of the interval; infinite for counts."""
        return inf if self.kind == "counts" else len(self.values) - 1

    def interval(self, confidence: float, seed: int) -> Interval:
        """The two-sided interval of the mean difference; a point where all differences are the same number.

        `blocks`: mean +- t_{G-1} sd / sqrt(G). `counts`: the standard error sqrt(discordant share / N) and the adjusted
        interval of Bonett and Price (2012), which does not vanish where nothing changed. `items`: the studentised
        bootstrap over items (Efron 1979; Hall 1988), drawn from `seed`.

        >>> found = Paired("counts", (1.0,) * 20 + (-1.0,) * 40 + (0.0,) * 240).interval(0.95, 0)
        >>> round(found.change, 4), round(found.std_error, 4)
        (-0.0667, 0.0258)
        """
        values = np.asarray(self.values, float)
        mean, error = float(values.mean()), float(values.std(ddof=1)) / sqrt(len(values))
        if self.kind == "counts":
            return _of_counts(values, confidence)
        if np.ptp(values) == 0:
            return Interval(mean, 0.0, mean, mean)
        if self.kind == "items":
            low, high = _bootstrap(values, confidence, seed)
            return Interval(mean, error, mean + low * error, mean + high * error)
        half = quantile(0.5 + confidence / 2, self.degrees()) * error
        return Interval(mean, error, mean - half, mean + half)


def quantile(share: float, degrees: float) -> float:
    """Student's quantile; the normal's for infinite degrees of freedom."""
    return float(stdtrit(degrees if degrees < inf else 1e12, share))


def _of_counts(differences: Floats, confidence: float) -> Interval:
    n = len(differences)
    gained, lost = (int((differences == sign).sum()) for sign in (1, -1))
    adjusted = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = adjusted[0] - adjusted[1]
    half = quantile(0.5 + confidence / 2, inf) * sqrt((sum(adjusted) - centre**2) / (n + 2))
    error = sqrt((gained + lost) / n / n)
    return Interval((gained - lost) / n, error, max(-1.0, centre - half), min(1.0, centre + half))


def _bootstrap(values: Floats, confidence: float, seed: int) -> tuple[float, float]:
    """How many standard errors below and above the mean the interval ends."""
    rng, n = np.random.default_rng(seed), len(values)
    studentised: list[Floats] = []
    for start in range(0, RESAMPLES, chunk := max(1, _AT_ONCE // n)):
        drawn = values[rng.integers(n, size=(min(chunk, RESAMPLES - start), n))]
        error = drawn.std(axis=1, ddof=1) / sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            studentised.append((drawn.mean(axis=1) - values.mean()) / error)  # infinite where all drawn are the same
    ends = np.quantile(np.nan_to_num(np.concatenate(studentised)), [0.5 + confidence / 2, 0.5 - confidence / 2])
    return -float(ends[0]), -float(ends[1])
