"""Metrics of the eigenvalues of a covariance: how many directions the states use.

All take eigenvalues [d] >= 0 in any order, return a 0-d float64 tensor, are invariant to rotation,
translation and positive scale of the states, and raise Undefined when the spread is zero. On any spectrum

    stable_rank <= participation_ratio <= effective_rank <= rankme <= rank.

Plug-in values are biased low at small n (see `null.py`), and the bias depends on the spectrum: use the
jackknife.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import torch
from torch import Tensor

from limberlm.geometry.statistics import CONSTANT, Moments
from limberlm.geometry.undefined import Undefined


def eigenvalues(covariance: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Eigenvalues of a covariance [d, d], descending, non-negative, float64 [d].

    The matrix is symmetrised. Rounding scatters eigenvalues that are truly zero to both sides of it: those up
    to twice the size of the most negative one are set to 0 (or they would add 1 % to `rankme` with fewer rows
    than dimensions). One below -tolerance x trace is no rounding, and refused.

    The default tolerance fits second moments whose products were taken in float32 (measured with fewer rows
    than dimensions: -1e-8 of the trace); 1e-10 fits float64 products.

    Raises ValueError for a matrix that is not square, not finite or not positive semi-definite. Our choice.

    >>> eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]])).round(decimals=6).tolist()
    [3.0, 1.0]
    """
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"a covariance is square, this has shape {tuple(covariance.shape)}")
    matrix = covariance.to(torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("the covariance holds NaN or infinite entries")
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).flip(0)
    lowest = float(values[-1])
    if lowest < -tolerance * float(matrix.trace()):
        raise ValueError(
            f"not a covariance: eigenvalue {lowest:.3g} at trace {float(matrix.trace()):.3g} "
            "(if it is one, its rows were summed about a shift too far from their mean)"
        )
    clipped: Tensor = torch.where(values > max(0.0, -2 * lowest), values, 0.0)
    return clipped


def _shares(spectrum: Tensor) -> Tensor:
    """The spectrum divided by its sum, float64."""
    spectrum = spectrum.to(torch.float64)
    if not bool(torch.isfinite(spectrum).all()) or bool((spectrum < 0).any()):
        raise ValueError("eigenvalues must be finite and not negative")
    total = spectrum.sum()
    if float(total) == 0.0:
        raise Undefined("zero trace: all states are equal")
    return spectrum / total


def _exp_entropy(shares: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()


def effective_rank(eigs: Tensor) -> Tensor:
    """Effective rank exp(-sum p ln p), p_i = lambda_i / sum lambda; in [1, min(n-1, d)]; falls on collapse.

    The exponential of the entropy of the *eigenvalues* of the covariance. The paper 2509.23024 calls this
    RankMe; 2605.30524 divides it by d. Natural logarithm, no epsilon, 0 ln 0 = 0.

    >>> round(effective_rank(torch.ones(8)).item(), 6)
    8.0
    """
    return _exp_entropy(_shares(eigs))


def rankme(eigs: Tensor) -> Tensor:
    """RankMe exp(-sum q ln q), q_i = sigma_i / sum sigma, sigma = sqrt(lambda).

    In [1, min(n-1, d)]; falls on collapse. The entropy of the *singular values* of the centred states:
    Garrido et al. 2210.02885, which does not centre and adds 1e-7. On the power law i^-a it equals
    `effective_rank` at i^-(a/2).

    >>> round(rankme(torch.tensor([4.0, 4.0, 0.0])).item(), 6)
    2.0
    """
    return _exp_entropy(_shares(eigs.to(torch.float64).sqrt()))


def participation_ratio(eigs: Tensor) -> Tensor:
    """Participation ratio (sum lambda)^2 / sum lambda^2 = 1 / sum p^2; in [1, d]; falls on collapse.

    The exponential of the Renyi-2 entropy of the spectrum. IsoScore (2108.07344) is (PR - 1)/(d - 1).

    >>> round(participation_ratio(torch.tensor([3.0, 1.0])).item(), 6)
    1.6
    """
    return 1 / _shares(eigs).square().sum()


def stable_rank(eigs: Tensor) -> Tensor:
    """Stable rank sum lambda / lambda_1 = |X|_F^2 / |X|_2^2, X centred; in [1, d]; falls on collapse.

    Standard; the inverse of `variance_share` at k = 1.

    >>> stable_rank(torch.tensor([1.0, 4.0, 3.0])).item()
    2.0
    """
    return 1 / _shares(eigs).max()


def variance_share(eigs: Tensor, k: int) -> Tensor:
    """Share of the variance in the k largest directions; in [k/d, 1]; rises on collapse.

    VE_k of 2605.30524, there with k = 1, 8 and 32. Undefined when k is not below the number of dimensions,
    where it could only be 1.

    >>> variance_share(torch.tensor([1.0, 4.0, 3.0]), 1).item()
    0.5
    """
    shares = _shares(eigs)
    if not 1 <= k < shares.numel():
        raise Undefined(f"the share of {k} directions says nothing in {shares.numel()} dimensions")
    return shares.topk(k).values.sum()


def participation_ratio_debiased(blocks: Sequence[Moments]) -> Tensor:
    """Debiased participation ratio, from products between different blocks only.

    An unbiased estimate of (tr Sigma)^2 over one of tr(Sigma^2): the means of |x1 - x2|^2 |x3 - x4|^2 / 4 and
    ((x1 - x2)'(x3 - x4))^2 / 4 over quadruples of rows from four distinct blocks. Both hold under any
    dependence inside a block, so tokens of one sequence may be as alike as they like; valid also when n < d.
    At least 1, about d at most (noise may exceed it); falls on collapse; invariant to rotation, translation
    and positive scale.

    `blocks`: sums of disjoint sets of sequences, any shifts; empty ones are left out. Undefined below 4
    blocks with rows, without spread, and when the estimate of tr(Sigma^2) is zero.

    Our derivation. With one row per block it equals gamma_row of 2509.26560. With blocks of one size it
    equals the simpler means over pairs and triples; with unequal ones those would depend on the shift.

    >>> gen = torch.Generator().manual_seed(0)
    >>> blocks = [Moments.zeros(torch.zeros(4)) for _ in range(8)]
    >>> for block in blocks: block.update(torch.randn(50, 4, generator=gen))
    >>> 3.9 < participation_ratio_debiased(blocks).item() < 4.1
    True
    """
    products = _Products([block for block in blocks if block.count], least=4)
    return products.ratio(torch.arange(len(products.counts)))


def participation_ratio_debiased_replicates(blocks: Sequence[Moments]) -> Tensor:
    """Delete-one-block values [G] of `participation_ratio_debiased`, NaN where the block is empty.

    All share the same G x G and G x G x G products, so they cost no more than the value itself. Undefined
    when any of them is: with fewer than 5 blocks, or an estimate of tr(Sigma^2) that is zero.
    """
    filled = [i for i, block in enumerate(blocks) if block.count]
    products = _Products([blocks[i] for i in filled], least=5)
    everyone = torch.arange(len(filled))
    values = torch.full((len(blocks),), nan, dtype=torch.float64)
    for position, i in enumerate(filled):
        values[i] = products.ratio(everyone[everyone != position])
    return values


class _Products:
    """Every product between blocks that the debiased ratio, or any delete-one version of it, needs."""

    def __init__(self, blocks: Sequence[Moments], least: int) -> None:
        if len(blocks) < least:
            raise Undefined(f"needs at least {least} blocks with rows, there are {len(blocks)}")
        rows = sum(block.count for block in blocks)
        centre = torch.stack([block.mean * (block.count / rows) for block in blocks]).sum(0)
        blocks = [block.shifted(centre) for block in blocks]
        flat = [block.second.flatten() for block in blocks]
        totals = torch.stack([block.total for block in blocks])  # [G, d]
        inner = torch.zeros(len(blocks), len(blocks), dtype=torch.float64)
        for a, left in enumerate(flat):
            for b, right in enumerate(flat[: a + 1]):
                inner[a, b] = inner[b, a] = torch.dot(left, right)
        self.counts = torch.tensor([block.count for block in blocks], dtype=torch.float64)
        self.inner = inner  # <M_a, M_b>
        self.traces = torch.stack([block.second.trace() for block in blocks]).cpu()
        self.gram = (totals @ totals.T).cpu()  # s_a's_b
        quadratic = [totals @ block.second @ totals.T for block in blocks]
        self.triple = torch.stack(quadratic, 1).cpu()  # s_a'M_b s_c
        if float(self.traces.sum()) <= CONSTANT * rows * float(centre.square().sum()):
            raise Undefined("zero trace: all states are equal")

    def ratio(self, kept: Tensor) -> Tensor:
        """The debiased participation ratio of the blocks `kept` [g].

        Each product of two or three blocks is weighted by the number of ways to complete it to a quadruple of
        rows from distinct blocks, which is what makes the sums independent of the shift.
        """
        n, traces = self.counts[kept], self.traces[kept]
        distinct = 1 - torch.eye(len(kept), dtype=torch.float64)
        gram = self.gram[kept][:, kept] * distinct
        rest = n.sum() - n[:, None] - n
        pairs = (rest.square() - n.square().sum() + n[:, None] ** 2 + n**2) * distinct
        triples = (rest[:, :, None] - n) * distinct[:, :, None] * distinct * distinct[:, None]
        second = (pairs * self.inner[kept][:, kept]).sum()
        third = (triples * self.triple[kept][:, kept][:, :, kept]).sum()
        fourth = gram.sum() ** 2 - 4 * gram.sum(1).square().sum() + 2 * gram.square().sum()
        below = second - 2 * third + fourth
        above = traces @ pairs @ traces - 2 * torch.einsum("a,abc,bc->", traces, triples, gram) + fourth
        if not float(below) > 1e-12 * float(above):
            raise Undefined("the estimate of tr(Sigma^2) is zero: too few rows")
        return above / below
