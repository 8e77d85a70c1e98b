"""Metrics of the eigenvalues of a covariance: how many directions the states use.

All take eigenvalues [d] >= 0 in any order, return a 0-d float64 tensor, are invariant to rotation,
translation and positive scale of the states, and raise Undefined when the spread is zero. On any spectrum

    stable_rank <= participation_ratio <= effective_rank <= rankme <= rank.

Plug-in values are biased low at small n (see `null.py`), and the bias depends on the spectrum: use the
jackknife.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry.undefined import Undefined

ROUNDING = 1e-12
"""A share of the trace below this is rounding, not variance."""


def eigenvalues(covariance: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Eigenvalues of a covariance [d, d], descending, non-negative, float64 [d].

    Only the lower triangle is read. Rounding scatters eigenvalues that are truly zero to both sides of it: those up
    to twice the size of the most negative one are set to 0 (or they would add 1 % to `rankme` with fewer rows
    than dimensions). One below -tolerance x trace is no rounding, and refused.

    The default tolerance fits second moments whose products were taken in float32 (measured with fewer rows
    than dimensions: -1e-8 of the trace); 1e-10 fits float64 products.

    Raises ValueError for a matrix that is not square, not finite or not positive semi-definite. Our choice.

    >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).round(decimals=6).tolist()
    [3.0, 1.0]
    """
    matrix = _checked(covariance)
    return _clipped(torch.linalg.eigvalsh(matrix).flip(0), matrix, tolerance)


def eigensystem(covariance: Tensor, *, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`eigenvalues` [d] of a covariance and its orthonormal eigenvectors [d, d], column i for eigenvalue i.

    Takes 2.3 to 5 times as long as the eigenvalues alone. Refuses what `eigenvalues` refuses. Our choice.

    >>> values, vectors = eigensystem(torch.diag(torch.tensor([1.0, 4.0])))
    >>> values.tolist(), vectors.abs().tolist()
    ([4.0, 1.0], [[0.0, 1.0], [1.0, 0.0]])
    """
    matrix = _checked(covariance)
    values, vectors = torch.linalg.eigh(matrix)
    return _clipped(values.flip(0), matrix, tolerance), vectors.flip(1)


def _checked(covariance: Tensor) -> Tensor:
    """A square, finite matrix, float64."""
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance is square, this has shape {tuple(covariance.shape)}")
    matrix = covariance.to(torch.float64)
    if not bool(torch.isfinite(matrix.sum())):  # one pass, no mask of d x d
        raise ValueError("the covariance holds NaN or infinite entries")
    return matrix


def _clipped(values: Tensor, matrix: Tensor, tolerance: float) -> Tensor:
    """Falling eigenvalues of `matrix` without the rounding about zero."""
    lowest, trace = float(values[-1]), float(matrix.trace())
    if lowest < -tolerance * trace:
        raise ValueError(
            f"not a covariance: eigenvalue {lowest:.3g} at trace {trace:.3g} "
            "(if it is one, its rows were summed about a shift too far from their mean)"
        )
    clipped: Tensor = torch.where(values > max(0.0, -2 * lowest), values, 0.0)
    return clipped


def spectral_shares(spectrum: Tensor) -> Tensor:
    """The spectrum divided by its sum, float64."""
    if spectrum.ndim != 1:
        raise ValueError(
            f"eigenvalues are [d], these have shape {tuple(spectrum.shape)}: take `eigenvalues` of a matrix"
        )
    spectrum = spectrum.to(torch.float64)
    if not bool(torch.isfinite(spectrum).all()) or bool((spectrum < 0).any()):
        raise ValueError("eigenvalues must be finite and not negative")
    total = spectrum.sum()
    if float(total) == 0.0:
        raise Undefined("zero trace: all states are equal")
    return spectrum / total


def exp_entropy(shares: Tensor) -> Tensor:
    """exp(-sum p ln p), 0 ln 0 = 0."""
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


def effective_rank(eigs: Tensor) -> Tensor:
    """Effective rank exp(-sum p ln p), p_i = lambda_i / sum lambda; in [1, min(n-1, d)]; falls on collapse.

    The exponential of the entropy of the *eigenvalues* of the covariance. The paper 2509.23024 calls this
    RankMe; 2605.30524 divides it by d. Natural logarithm, no epsilon, 0 ln 0 = 0.

    >>> round(effective_rank(torch.ones(8)).item(), 6)
    8.0
    """
    return exp_entropy(spectral_shares(eigs))


def rankme(eigs: Tensor) -> Tensor:
    """RankMe exp(-sum q ln q), q_i = sigma_i / sum sigma, sigma = sqrt(lambda).

    In [1, min(n-1, d)]; falls on collapse. The entropy of the *singular values* of the centred states:
    Garrido et al. 2210.02885, which does not centre and adds 1e-7. On the power law i^-a it equals
    `effective_rank` at i^-(a/2).

    >>> round(rankme(torch.tensor([4.0, 4.0, 0.0])).item(), 6)
    2.0
    """
    return exp_entropy(spectral_shares(eigs.to(torch.float64).sqrt()))


def participation_ratio(eigs: Tensor) -> Tensor:
    """Participation ratio (sum lambda)^2 / sum lambda^2 = 1 / sum p^2; in [1, d]; falls on collapse.

    The exponential of the Renyi-2 entropy of the spectrum. IsoScore (2108.07344) is (PR - 1)/(d - 1).

    >>> round(participation_ratio(torch.tensor([3.0, 1.0])).item(), 6)
    1.6
    """
    return 1 / spectral_shares(eigs).square().sum()


def stable_rank(eigs: Tensor) -> Tensor:
    """Stable rank sum lambda / lambda_1 = |X|_F^2 / |X|_2^2, X centred; in [1, d]; falls on collapse.

    Standard; the inverse of `variance_share` at k = 1.

    >>> stable_rank(torch.tensor([1.0, 4.0, 3.0])).item()
    2.0
    """
    return 1 / spectral_shares(eigs).max()


def variance_share(eigs: Tensor, k: int) -> Tensor:
    """Share of the variance in the k largest directions; in [k/d, 1]; rises on collapse.

    VE_k of 2605.30524, there with k = 1, 8 and 32. Undefined when k is not below the number of dimensions,
    where it could only be 1.

    >>> variance_share(torch.tensor([1.0, 4.0, 3.0]), 1).item()
    0.5
    """
    shares = spectral_shares(eigs)
    if not 1 <= k < shares.numel():
        raise Undefined(f"the share of {k} directions says nothing in {shares.numel()} dimensions")
    return shares.topk(k).values.sum()


def effective_rank_normalised(eigs: Tensor, rows: int | None = None) -> Tensor:
    """Effective rank over the number of dimensions, exp(H) / d; in (0, 1]; falls on collapse.

    The form 2605.30524 reports. With n - 1 < d it would say how few rows there are, so it is Undefined when an
    eigenvalue is zero (1e-12 of the largest), as d - n + 1 of them then are. Given `rows` n it is
    exp(H) / min(n-1, d) instead, the share of what centred rows can reach: another quantity when n - 1 < d, the
    same from there on.

    >>> round(effective_rank_normalised(torch.tensor([3.0, 3.0, 3.0])).item(), 6)
    1.0
    >>> round(effective_rank_normalised(torch.tensor([3.0, 3.0, 0.0]), rows=3).item(), 6)
    1.0
    """
    return effective_rank(eigs) / rank_bound(eigs, rows)


def rank_bound(eigs: Tensor, rows: int | None) -> int:
    """What a rank is divided by: d, or min(n-1, d) when told n."""
    width = eigs.numel()
    if rows is not None:
        if rows < 2:
            raise Undefined(f"a covariance needs two rows, there are {rows}")
        return min(rows - 1, width)
    used = int((eigs > ROUNDING * eigs.max()).sum())
    if used < width:
        raise Undefined(f"only {used} of {width} eigenvalues are above zero, as when there are too few rows")
    return width


def isoscore(eigs: Tensor) -> Tensor:
    """IsoScore (PR - 1) / (d - 1), PR the participation ratio; in [0, 1]; falls on collapse.

    Equal to the construction of 2108.07344 on the principal variances; appended zero columns lower it, since d
    counts them. Undefined in one dimension.

    >>> round(isoscore(torch.tensor([3.0, 1.0])).item(), 6)
    0.6
    """
    if eigs.numel() < 2:
        raise Undefined("IsoScore needs two dimensions")
    return (participation_ratio(eigs) - 1) / (eigs.numel() - 1)


def head_removed_rank(eigs: Tensor, k: int) -> Tensor:
    """Effective rank of what is left without the k largest eigenvalues; in [1, d-k]; falls on collapse.

    Tells a growing sink from a shrinking bulk: a direction of variance share w added to a spectrum of rank R
    gives an effective rank of exp(h(w)) R^(1-w), h the binary entropy, and removing it gives R back. Our
    choice, with k = 1, 2, 8 and 32. Undefined when nothing but rounding (1e-12 of the trace) is left; ValueError
    for a negative k.

    >>> round(head_removed_rank(torch.tensor([96.0, 1.0, 1.0, 1.0, 1.0]), 1).item(), 6)
    4.0
    """
    if k < 0:
        raise ValueError(f"cannot remove {k} directions")
    rest = spectral_shares(eigs).sort(descending=True).values[k:]
    if float(rest.sum()) <= ROUNDING:
        raise Undefined(f"no variance outside the {k} largest directions")
    return effective_rank(rest)


def srank(eigs: Tensor) -> Tensor:
    """Fewest directions whose *singular values* hold 99 % of their sum; 1..d, an integer; falls on collapse.

    min k: sum_{i<=k} sigma_i / sum sigma >= 0.99, sigma = sqrt(lambda), here of the centred states: Kumar et al.
    2010.14498, who do not centre. Integer-valued, so it has no interval.

    >>> srank(torch.tensor([100.0, 1.0, 0.001])).item()
    2.0
    """
    return _directions_holding(spectral_shares(eigs.to(torch.float64).sqrt()), 0.99)


def approximate_rank(eigs: Tensor) -> Tensor:
    """Fewest directions that hold 99 % of the variance; 1..d, an integer; falls on collapse.

    min k: sum_{i<=k} lambda_i / sum lambda >= 0.99: the approximate rank of 1909.12255. Integer-valued, so it
    has no interval.

    >>> approximate_rank(torch.tensor([100.0, 1.0, 0.001])).item()
    1.0
    """
    return _directions_holding(spectral_shares(eigs), 0.99)


def _directions_holding(shares: Tensor, part: float) -> Tensor:
    """How many of the largest `shares` it takes to reach `part`; the rounding of their sum does not decide."""
    held = shares.sort(descending=True).values.cumsum(0)
    return (held < part * (1 - ROUNDING)).sum().to(torch.float64) + 1
