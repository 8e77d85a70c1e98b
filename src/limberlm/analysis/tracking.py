"""How two numbers move together along the checkpoints of a run.

Both trend, and neighbours depend on each other, so the plain correlation and its p-value say little; 2509.23024 prints
those alone. Beside them stand the correlation of the steps from checkpoint to checkpoint, the one that is left when
training time is accounted for, and a p-value that keeps each series' own dependence (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr
from scipy.stats import spearmanr

from limberlm.analysis.curve import Floats, log_axis, make_curve
from limberlm.analysis.plain import plain
from limberlm.errors import UserError

FEWEST = 4
SAME = 1e-12  # two rotations of a periodic series differ by rounding alone


@dataclass(frozen=True)
class Tracking:
    """The correlations of two series over n checkpoints; NaN where one of them does not vary.

    Attributes:
        n: checkpoints.
        pearson, spearman: the plain correlations, -1 to 1.
        naive_p, naive_p_spearman: two-sided p-values as if checkpoints were independent, which they are not: naive.
        differences: Pearson correlation of the first differences.
        partial: Pearson correlation given ln t (ln of t + the smallest positive t where the series starts at 0).
        shift_p: share of the circular shifts of one series, the unshifted one included, whose |Pearson correlation|
            with the other is as large as the one found; at least 1/n.

    """

    n: int
    pearson: float
    spearman: float
    naive_p: float
    naive_p_spearman: float
    differences: float
    partial: float
    shift_p: float

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, None for NaN: fit for JSON."""
        return dict(plain(self))


def track(steps: ArrayLike, a: ArrayLike, b: ArrayLike) -> Tracking:
    """The correlations of two series `a` and `b` [n] read at the same checkpoints `steps` [n].

    A circular shift by s pairs a_i with b_{i+s mod n}: it keeps the order, hence the dependence, within each series,
    and breaks only what ties them together. All n - 1 shifts are taken. A trend makes its ends jump when shifted, so
    this p-value too is only as good as the series are stationary.

    Raises:
        UserError: lengths differ, steps do not rise, a value is NaN, or there are fewer than 4 checkpoints.

    >>> steps, a = [1, 2, 4, 8, 16, 32], [1.0, 2.0, 4.0, 3.0, 5.0, 6.0]
    >>> found = track(steps, a, [2 * value for value in a])
    >>> round(found.pearson, 6), round(found.differences, 6), round(found.shift_p, 4)
    (1.0, 1.0, 0.1667)
    """
    first, second = make_curve(steps, a, name="the first series"), make_curve(steps, b, name="the second series")
    n = len(first)
    if n < FEWEST:
        raise UserError(f"steps: {n} checkpoints; a correlation along them needs {FEWEST}")
    x, y, time = first.y, second.y, log_axis(first.steps)
    pearson, spearman = pearson_correlation(x, y), _spearman(x, y)
    return Tracking(
        n=n,
        pearson=pearson,
        spearman=spearman,
        naive_p=naive_p(pearson, n),
        naive_p_spearman=naive_p(spearman, n),
        differences=pearson_correlation(np.diff(x), np.diff(y)),
        partial=_partial(x, y, time),
        shift_p=_shift_p(x, y),
    )


def naive_p(correlation: float, n: int) -> float:
    """Two-sided p-value of a correlation of n independent pairs: t = r sqrt((n - 2) / (1 - r^2)), n - 2 d.o.f.

    Standard; every p-value of 2509.23024's Table 9 is this one. NaN for a NaN correlation, 0 for 1 or -1.

    >>> f"{naive_p(0.810, 20):.2e}", f"{naive_p(-0.616, 76):.1e}"
    ('1.50e-05', '3.2e-09')
    """
    if not abs(correlation) < 1:
        return 0.0 if abs(correlation) >= 1 else nan
    t = abs(correlation) * sqrt((n - 2) / (1 - correlation**2))
    return float(2 * stdtr(n - 2, -t))


def pearson_correlation(x: Floats, y: Floats) -> float:
    """Pearson's r; NaN where either does not vary (but for rounding)."""
    left, right = x - x.mean(), y - y.mean()
    if _still(x, left) or _still(y, right):
        return nan
    return float(np.clip(left @ right / sqrt((left @ left) * (right @ right)), -1, 1))


def _still(values: Floats, centred: Floats) -> bool:
    return bool(np.abs(centred).max() <= 1e-12 * np.abs(values).max())


def _spearman(x: Floats, y: Floats) -> float:
    still = np.ptp(x) == 0 or np.ptp(y) == 0
    return nan if still else float(spearmanr(x, y).statistic)


def _partial(x: Floats, y: Floats, given: Floats) -> float:
    """Correlation of what is left of x and y when the part linear in `given` is taken away."""
    design = np.column_stack([np.ones_like(given), given])
    left = [series - design @ np.linalg.lstsq(design, series, rcond=None)[0] for series in (x, y)]
    if any(np.abs(rest).max() <= 1e-10 * np.abs(series).max() for rest, series in zip(left, (x, y), strict=True)):
        return nan
    return pearson_correlation(*left)


def _shift_p(x: Floats, y: Floats) -> float:
    found = abs(pearson_correlation(x, y))
    if not isfinite(found):
        return nan
    shifted = [abs(pearson_correlation(x, np.roll(y, -shift))) for shift in range(1, len(y))]
    return float(1 + sum(value >= found - SAME for value in shifted)) / len(y)
