"""What a gate can see: the change it would find, how often it would pass a model in which nothing changed."""

from __future__ import annotations

import numpy as np
from scipy.special import chdtri, ndtr

from limberlm.analysis.gate.paired import quantile

POWER = 0.8
_LARGE = 1e4  # degrees of freedom from which Student's distribution is the normal
_SHARES = (np.arange(4000) + 0.5) / 4000  # midpoints of a chi-square's quantiles


def detectable(std_error: float, degrees: float, confidence: float = 0.95) -> float:
    """The smallest change that the interval leaves zero out of with probability 0.8.

    (t_{1 - alpha/2} + t_{0.8}) SE with the interval's degrees of freedom. Standard.

    >>> from math import sqrt
    >>> round(detectable(1.0, 15), 3), round(detectable(sqrt(0.2 / 300), float("inf")), 3)
    (2.998, 0.072)
    """
    return (quantile(0.5 + confidence / 2, degrees) + quantile(POWER, degrees)) * std_error


def pass_probability(
    margin: float, std_error: float, degrees: float, confidence: float = 0.95, *, both: bool = False
) -> float:
    """How often a candidate that differs in nothing would pass, were `std_error` the true one.

    The mean over s of Phi(m/SE - t_{1 - alpha/2} s), or of max(0, 2 Phi - 1) where both sides are harmful, with
    s^2 ~ chi^2_df / df because an interval estimates its own width. With many degrees of freedom Phi(m/SE - 1.96) and
    2 Phi(m/SE - 1.96) - 1. Our derivation.

    >>> round(pass_probability(2.8, 1.0, float("inf")), 2), round(pass_probability(3.24, 1.0, 1e9, both=True), 2)
    (0.8, 0.8)
    """
    limit = quantile(0.5 + confidence / 2, degrees)
    widths = np.sqrt(chdtri(degrees, _SHARES) / degrees) if degrees < _LARGE else np.ones(1)
    ratio = margin / std_error if std_error else np.inf
    inside = ndtr(ratio - limit * widths)
    return float((np.maximum(0, 2 * inside - 1) if both else inside).mean())


def needed(margin: float, std_error: float, degrees: float, confidence: float = 0.95, *, both: bool = False) -> float:
    """How many times as large the probe must be to pass a candidate that differs in nothing four times out of five.

    (k SE / m)^2 with k = t_{1 - alpha/2} + t_{0.8}, or t_{0.9} where both sides are harmful.

    >>> round(needed(1.0, 1.0, float("inf"), both=True) ** 0.5, 2)
    3.24
    """
    wanted = (1 + POWER) / 2 if both else POWER
    return ((quantile(0.5 + confidence / 2, degrees) + quantile(wanted, degrees)) * std_error / margin) ** 2
