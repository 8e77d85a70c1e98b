"""What the spectrum of a covariance leaves out: where the mean lies, which axes are used, how large states are."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry.spectrum import eigenvalues
from limberlm.geometry.statistics import Moments
from limberlm.geometry.undefined import Undefined

FEATURE_RANK_THRESHOLD = 0.01
"""Singular values of states / sqrt(n) above this count, in 2204.09560."""


def top_dimension_share(moments: Moments) -> Tensor:
    """Share of the variance on the largest single coordinate, max_j S_jj / tr S; in [1/d, 1]; rises on collapse.

    Flags a rogue dimension (2109.04404), which per-token RMS normalisation does not repair. 0-d float64.
    Invariant to translation, positive scale and the order of coordinates; not to rotation, which mixes them: it
    is never above the share of the top *direction*. Biased up at small n. Our choice. Undefined below two rows
    and when all states are equal.

    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 2.0]]))
    >>> round(top_dimension_share(moments).item(), 6)
    0.75
    """
    variances = moments.variances
    total = variances.sum()
    if float(total) <= 0.0:
        raise Undefined("zero trace: all states are equal")
    return variances.max() / total


def mean_share(moments: Moments) -> Tensor:
    """Share of the mean in the second moment, |mu|^2 / (|mu|^2 + tr S); in [0, 1]; rises on collapse.

    Ties raw to centred numbers: with w the share of a mean orthogonal to the centred states, their effective rank
    R becomes exp(h(w)) R^(1-w) uncentred, h the binary entropy. 0-d float64; 1 for equal states. Invariant to
    rotation and scale, not to translation. The plug-in is high by about (1 - w) / n, n counted in independent
    rows. Our choice. Undefined below two rows and when all states are zero.

    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(torch.tensor([[2.0, 1.0], [2.0, -1.0]]))
    >>> round(mean_share(moments).item(), 6)
    0.666667
    """
    spread = moments.trace
    offset = moments.mean.square().sum()
    if float(offset + spread) == 0.0:
        raise Undefined("all states are zero")
    return offset / (offset + spread)


def second_moment(moments: Moments) -> Tensor:
    """Mean of x x' about the origin, not about the mean: [d, d], float64. Undefined without rows.

    >>> moments = Moments.zeros(torch.ones(2))
    >>> moments.update(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    >>> second_moment(moments).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    if moments.count == 0:
        raise Undefined("no rows")
    return moments.shifted(torch.zeros_like(moments.shift)).second / moments.count


def feature_rank(moments: Moments) -> Tensor:
    """How many singular values of states / sqrt(n) exceed 0.01, uncentred; 0..d, an integer; falls on collapse.

    The feature rank of InFeR, 2204.09560; H [n, d] are the states as they are, so H'H / n is their second moment
    about the origin, and an eigenvalue of it above 1e-4 counts. 0-d float64. Invariant to rotation; *not* to
    scale or translation, so it is read on raw states only, and says nothing across models of different scale.
    Integer-valued, so it has no interval. Undefined without rows.

    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(torch.tensor([[1.0, 0.001], [1.0, -0.001]]))
    >>> feature_rank(moments).item()
    1.0
    """
    squares = eigenvalues(second_moment(moments))
    return (squares > FEATURE_RANK_THRESHOLD**2).sum().to(torch.float64)
