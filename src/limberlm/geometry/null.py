"""What each metric reads on n isotropic Gaussian rows in d dimensions: what sampling alone produces.

The population has full rank d; with N = n - 1 (centred rows), m = min(d, N), B = max(d, N) and c = m/B its
sample spectrum follows Marchenko-Pastur. Correlated tokens make the effective n smaller, so real nulls of
ranks lie a little lower. All functions raise Undefined below two rows or one dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import cos, exp, log, pi, sin, sqrt

from scipy.integrate import quad
from scipy.optimize import brentq

from limberlm.geometry.undefined import Undefined


def null_effective_rank(n: int, d: int) -> float:
    """Page's mean entropy, exponentiated: exp(ln m - (m-1)(m+2) / (2 m B)), about m exp(-c/2).

    >>> round(null_effective_rank(4096, 256) / 256, 3)
    0.969
    """
    m, larger = _sizes(n, d)
    return exp(log(m) - (m - 1) * (m + 2) / (2 * m * larger))


def null_rankme(n: int, d: int) -> float:
    """Entropy rank of the square roots of the Marchenko-Pastur law; m (2/(3 pi)) e^(4/3) at c = 1.

    >>> round(null_rankme(101, 100) / 100, 4)
    0.805
    """
    m, larger = _sizes(n, d)
    return max(1.0, m * _rankme_ratio(m / larger))


def null_participation_ratio(n: int, d: int) -> float:
    """(d N + 2) / (d + N + 1), about d / (1 + d/n); exact for the harmonic mean.

    >>> round(null_participation_ratio(4096, 256) / 256, 3)
    0.941
    """
    _sizes(n, d)
    return (d * (n - 1) + 2) / (d + n)


def null_participation_ratio_debiased(n: int, d: int) -> float:
    """d, whatever n: both parts are unbiased."""
    _sizes(n, d)
    return float(d)


def null_variance_share(n: int, d: int, k: int) -> float:
    """Share of the k largest eigenvalues: the part of Marchenko-Pastur above its (1 - k/m) quantile.

    For k = 1 this tends to the law's edge (1 + sqrt(d/N))^2 / d, which sampled spectra stay 1-4 % below at d
    of a hundred or two (this value: within 1.3 %). Undefined when k is not below d.

    >>> round(null_variance_share(4096, 256, 1), 4), round(null_variance_share(4096, 256, 8), 4)
    (0.006, 0.0471)
    """
    m, larger = _sizes(n, d)
    if not 1 <= k < d:
        raise Undefined(f"the share of {k} directions says nothing in {d} dimensions")
    if k >= m:
        return 1.0
    return _top_share(m / larger, k / m)


def null_stable_rank(n: int, d: int) -> float:
    """The inverse of the null share of one direction, about d / (1 + sqrt(d/N))^2."""
    return 1 / null_variance_share(n, d, 1)


def null_mean_cosine(n: int, d: int) -> float:
    """0: independent directions have no mean cosine."""
    _sizes(n, d)
    return 0.0


def null_mean_cosine_centred(n: int, d: int) -> float:
    """-1/(n-1), `n` the rows of the mean that was subtracted: centred rows sum to zero.

    >>> null_mean_cosine_centred(101, 64)
    -0.01
    """
    _sizes(n, d)
    return -1 / (n - 1)


def _sizes(n: int, d: int) -> tuple[int, int]:
    """The pair m, B of the module docstring."""
    if n < 2 or d < 1:
        raise Undefined(f"no null value for {n} rows in {d} dimensions")
    return min(d, n - 1), max(d, n - 1)


def _mean_over_spectrum(c: float, function: Callable[[float], float], end: float = pi) -> float:
    """Integral of `function` against the Marchenko-Pastur law of ratio c <= 1 (mean 1).

    With lambda = 1 + c + 2 sqrt(c) cos(angle) the density is (2/pi) sin^2(angle) / lambda: no square-root
    edges. The eigenvalues fall as the angle grows, so [0, end] selects a part of the spectrum from the
    top.
    """

    def weighted(angle: float) -> float:
        value = max(1 + c + 2 * sqrt(c) * cos(angle), 1e-300)
        return 2 / pi * sin(angle) ** 2 / value * function(value)

    return float(quad(weighted, 0.0, end, limit=200)[0])


@lru_cache(maxsize=4096)
def _rankme_ratio(c: float) -> float:
    mean = _mean_over_spectrum(c, sqrt)
    mean_log = _mean_over_spectrum(c, lambda value: sqrt(value) * log(value) / 2)
    return mean * exp(-mean_log / mean)


@lru_cache(maxsize=4096)
def _top_share(c: float, share: float) -> float:
    """Share of the trace held by the largest `share` of the eigenvalues."""
    angle = brentq(lambda end: _mean_over_spectrum(c, lambda value: 1.0, end) - share, 0.0, pi)
    return _mean_over_spectrum(c, lambda value: value, float(angle))
