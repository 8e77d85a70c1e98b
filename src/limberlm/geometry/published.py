"""Ranks as published code computes them, to set beside a published number and for nothing else.

Each differs from the metric of `spectrum.py` it resembles: by an added constant, a cap or the missing centring.
"""

from __future__ import annotations

from torch import Tensor

from limberlm.geometry.coordinates import second_moment
from limberlm.geometry.spectrum import eigenvalues, exp_entropy, rank_bound, rankme, spectral_shares
from limberlm.geometry.statistics import Moments

ADDED = 1e-7
"""What both released codes add to each share before the entropy."""

KEPT = 2048
"""Eigenvalues the code released with 2509.23024 keeps."""


def rankme_garrido(moments: Moments) -> Tensor:
    """RankMe as published: exp(-sum p ln p), p_k = sigma_k / sum sigma + 1e-7, of the *uncentred* states.

    sigma_k, k = 1..min(n, d), are the singular values of the states [n, d] as they are. 0-d float64 in about [1,
    min(n, d)]; falls on collapse. A mean of share w holds it down however full the rest is (see `mean_share`).
    Invariant to rotation and scale, not to translation. Undefined without rows and when all states are zero.

    Garrido et al. 2210.02885, there on 25,600 samples; the added constant is theirs.

    >>> import torch
    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> round(rankme_garrido(moments).item(), 5)
    2.0
    """
    squares = eigenvalues(second_moment(moments))[: moments.count]
    return exp_entropy(spectral_shares(squares.sqrt()) + ADDED)


def rank_tracing_release(eigs: Tensor, rows: int | None = None) -> Tensor:
    """What the code released with 2509.23024 prints as RankMe: a capped `effective_rank` with a constant added.

    The min(2048, n, d) largest shares of the variance, divided by their sum, each + 1e-7 and *not* divided again;
    exp(-sum p ln p). 0-d float64 in about [1, 2051]; falls on collapse. In d > 2048 it is capped: isotropic
    states of d = 4096 read 2050.8, i^-1 281.8 for 431.1. Without `rows` n it counts all d eigenvalues, up to 0.3 %
    more when n < d. Undefined when all states are equal.

    >>> import torch
    >>> round(rank_tracing_release(torch.tensor([4.0, 2.0, 1.0, 1.0])).item(), 6)
    3.363586
    """
    kept = min(KEPT, eigs.numel() if rows is None else rows)
    return exp_entropy(spectral_shares(eigs.sort(descending=True).values[:kept]) + ADDED)


def rank_sigma_normalised(eigs: Tensor, rows: int | None = None) -> Tensor:
    """`rankme` over the number of dimensions, exp(-sum q ln q) / d, q = sigma / sum sigma; in (0, 1].

    Falls on collapse. A hypothesis of ours: it reaches the levels told of 2605.30524 (0.58 to 0.74 of d), which
    under eigenvalue weighting need a power law of 0.52 to 0.63; no text we know says that it was used. Undefined
    when an eigenvalue is zero, and `rows` as in `effective_rank_normalised`.

    >>> import torch
    >>> round(rank_sigma_normalised(torch.arange(1.0, 1537.0).double() ** -1.0).item(), 3)
    0.779
    """
    return rankme(eigs) / rank_bound(eigs, rows)
