"""What each metric reads on n isotropic Gaussian rows in d dimensions: what sampling alone produces.

The population has full rank d; with N = n - 1 (centred rows), m = min(d, N), B = max(d, N) and c = m/B its
sample spectrum follows Marchenko-Pastur. Correlated tokens make the effective n smaller, so real nulls of
ranks lie a little lower. All functions raise Undefined below two rows or one dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, cos, exp, inf, log, pi, sin, sqrt

from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import gammainc

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
    return max(1.0, m * _entropy_ratio(m / larger, power=0.5))


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


def null_effective_rank_normalised(n: int, d: int) -> float:
    """`null_effective_rank` over d; Undefined when n - 1 < d, as the metric is.

    >>> round(null_effective_rank_normalised(4096, 256), 3)
    0.969
    """
    return _over_width(null_effective_rank(n, d), n, d)


def null_rank_sigma_normalised(n: int, d: int) -> float:
    """`null_rankme` over d; Undefined when n - 1 < d, as the metric is."""
    return _over_width(null_rankme(n, d), n, d)


def null_isoscore(n: int, d: int) -> float:
    """(PR - 1) / (d - 1) at the null participation ratio, about 1 / (1 + d/n)."""
    if d < 2:
        raise Undefined("IsoScore needs two dimensions")
    return (null_participation_ratio(n, d) - 1) / (d - 1)


def null_head_removed_rank(n: int, d: int, k: int) -> float:
    """Entropy rank of Marchenko-Pastur without its top k/m: within 0.3 % of sampled spectra at d of a hundred.

    Undefined when k is not below min(n - 1, d).

    >>> round(null_head_removed_rank(4096, 256, 8), 1)
    240.9
    """
    m, larger = _sizes(n, d)
    if not 0 <= k < m:
        raise Undefined(f"no variance outside the {k} largest directions")
    return max(1.0, m * _entropy_ratio(m / larger, start=k / m))


def null_srank(n: int, d: int) -> float:
    """Fewest directions whose square roots of the law hold 99 %, rounded up.

    >>> null_srank(4096, 256)
    253.0
    """
    return _directions_holding(n, d, power=0.5)


def null_approximate_rank(n: int, d: int) -> float:
    """Fewest directions of the law that hold 99 % of the variance, rounded up.

    >>> null_approximate_rank(4096, 256)
    252.0
    """
    return _directions_holding(n, d, power=1.0)


def null_rankme_garrido(n: int, d: int) -> float:
    """As `null_rankme` with N = n: nothing is centred. Leaves out the added constant (0.06 % at d = 1024)."""
    _sizes(n, d)
    return null_rankme(n + 1, d)


def null_rank_tracing_release(n: int, d: int, kept: int = 2048) -> float:
    """`null_effective_rank`, or past `kept` directions the entropy rank of the law's top part.

    Leaves out the added constant (0.1 % at d = 2048).
    """
    m, larger = _sizes(n, d)
    if m <= kept:
        return null_effective_rank(n, d)
    return m * _entropy_ratio(m / larger, stop=kept / m)


def null_top_dimension_share(n: int, d: int) -> float:
    """Mean of the largest of d equal variances over their sum: exact, the integral of 1 - F^d over dN.

    F is the law of one variance, chi-squared with N = n - 1 degrees of freedom; shares do not depend on their sum.

    >>> round(null_top_dimension_share(4096, 256) * 256, 3)
    1.064
    """
    _sizes(n, d)
    half = (n - 1) / 2
    middle = 1 + 8 / sqrt(half)  # in units of the mean variance: the integrand falls from 1 to 0 below it

    def above(share: float) -> float:
        return 1 - float(gammainc(half, half * share)) ** d

    return float(quad(above, 0.0, middle, limit=200)[0] + quad(above, middle, inf)[0]) / d


def null_mean_share(n: int, d: int) -> float:
    """1 / (n + 1) for rows of zero mean, up to a relative 2/(d n).

    >>> null_mean_share(99, 64)
    0.01
    """
    _sizes(n, d)
    return 1 / (n + 1)


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


def _over_width(rank: float, n: int, d: int) -> float:
    if n - 1 < d:
        raise Undefined(f"no null value as a share of {d} dimensions with {n} rows")
    return rank / d


def _directions_holding(n: int, d: int, power: float, part: float = 0.99) -> float:
    m, larger = _sizes(n, d)
    return float(ceil(m * _top_part(m / larger, power, part)))


def _mean_over_spectrum(c: float, function: Callable[[float], float], start: float = 0.0, end: float = pi) -> float:
    """Integral of `function` against the Marchenko-Pastur law of ratio c <= 1 (mean 1).

    With lambda = 1 + c + 2 sqrt(c) cos(angle) the density is (2/pi) sin^2(angle) / lambda: no square-root
    edges. The eigenvalues fall as the angle grows, so [start, end] selects a part of the spectrum counted from
    the top.
    """

    def weighted(angle: float) -> float:
        value = max(1 + c + 2 * sqrt(c) * cos(angle), 1e-300)
        return 2 / pi * sin(angle) ** 2 / value * function(value)

    return float(quad(weighted, start, end, limit=200)[0])


def _angle(c: float, part: float, function: Callable[[float], float] = lambda value: 1.0) -> float:
    """Where the integral of `function` from the top of the law reaches `part` of its whole."""
    if part in (0.0, 1.0):
        return part * pi
    wanted = part * _mean_over_spectrum(c, function)
    return float(brentq(lambda end: _mean_over_spectrum(c, function, 0.0, end) - wanted, 0.0, pi))


@lru_cache(maxsize=4096)
def _entropy_ratio(c: float, power: float = 1.0, start: float = 0.0, stop: float = 1.0) -> float:
    """Entropy rank over m of lambda^power, between the law's quantiles `start` and `stop` from the top."""
    bounds = _angle(c, start), _angle(c, stop)
    mean = _mean_over_spectrum(c, lambda value: value**power, *bounds)
    mean_log = _mean_over_spectrum(c, lambda value: value**power * power * log(value), *bounds)
    return mean * exp(-mean_log / mean)


@lru_cache(maxsize=4096)
def _top_share(c: float, share: float) -> float:
    """Share of the trace held by the largest `share` of the eigenvalues."""
    return _mean_over_spectrum(c, lambda value: value, 0.0, _angle(c, share))


@lru_cache(maxsize=4096)
def _top_part(c: float, power: float, part: float) -> float:
    """Share of the eigenvalues, from the top, whose lambda^power hold `part` of the sum."""
    angle = _angle(c, part, lambda value: value**power)
    return _mean_over_spectrum(c, lambda value: 1.0, 0.0, angle)
