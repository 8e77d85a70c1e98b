"""How many repetitions a difference takes, or its absence, and how large a difference so many can find."""

from __future__ import annotations

from math import inf, nan, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import nct, t

from limberlm.analysis.arms import POWER

MOST = 1000
"""No more repetitions than this are asked for."""


def power(effect: float, spread: float, n: int, level: float = 0.05) -> float:
    """The chance that Student's paired test at `level` finds a true difference, to its own side (noncentral t).

    Args:
        effect: the true difference.
        spread: standard deviation of the n differences.
        n: how many there are, two or more.
        level: two-sided.

    >>> round(power(1.0, 1.0, 10), 3)  # as by statsmodels' TTestPower
    0.803
    """
    away = abs(effect) / spread * sqrt(n)
    found = float(nct.sf(t.ppf(1 - level / 2, n - 1), n - 1, away))
    return found if found == found else 1.0  # so far away that scipy has no number for it


def detectable(spread: float, n: int, level: float = 0.05) -> float:
    """The smallest true difference that is found four times in five; NaN below two repetitions."""
    if n < 2:
        return nan
    if not spread:
        return 0.0
    most = 10 * t.ppf(1 - level / 2, n - 1) / sqrt(n)
    return spread * float(brentq(lambda effect: power(effect, 1.0, n, level) - POWER, 0.0, most))


def needed(effect: float, spread: float, level: float = 0.05) -> float:
    """The fewest repetitions with which a true difference is found four times in five; infinity above a thousand.

    >>> needed(0.5, 1.0), needed(0.0, 1.0)
    (34, inf)
    """
    if not effect or power(effect, spread or abs(effect) / 1e6, MOST, level) < POWER:
        return inf
    low, high = 1, MOST
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(effect, spread or abs(effect) / 1e6, middle, level) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def needed_to_match(margin: float, spread: float) -> float:
    """The fewest repetitions that show two equal targets to lie within the margin four times in five, at 95 %.

    (t_{.975} + t_{.9}) spread / sqrt(n) <= margin: the usual approximation for two one-sided tests. Infinity above a
    thousand.

    >>> needed_to_match(0.05, 0.05)
    13
    """
    n = np.arange(2, MOST + 1)
    enough = (t.ppf(0.975, n - 1) + t.ppf((1 + POWER) / 2, n - 1)) * spread / np.sqrt(n) <= margin
    return int(n[enough][0]) if enough.any() else inf
