"""What the unembedding can see of the states: spectra of the logits by a d x d route, without logits."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry.statistics import Moments

CHUNK = 8192
"""Rows of the unembedding worked on at a time."""


@torch.no_grad()
def head_gram(weight: Tensor, chunk: int = CHUNK) -> Tensor:
    """Gram G = W'W - V wbar wbar' of an unembedding `weight` [V, d] centred over the vocabulary, [d, d] float64.

    Softmax ignores a constant added to all logits of a token, so the mean row wbar is taken out; a bias of the
    head adds the same to every token and drops out of all spread. Depends on the head alone: one pass, `chunk`
    rows at a time in float64, to be kept. For states before the final norm fold its scale into W.

    ValueError for a weight that is not a matrix of two rows or more, or not finite.

    >>> head_gram(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [3.0, 0.0]])).tolist()
    [[8.0, 0.0], [0.0, 0.0]]
    """
    if weight.ndim != 2 or weight.shape[0] < 2:
        raise ValueError(f"an unembedding is [V, d] with V at least 2, this has shape {tuple(weight.shape)}")
    sums = Moments.zeros(weight[:chunk].mean(0, dtype=torch.float64))
    for rows in weight.split(chunk):
        sums.update(rows.to(torch.float64))
    gram = sums.covariance * (sums.count - 1)
    if not bool(torch.isfinite(gram).all()):
        raise ValueError("the unembedding holds NaN or infinite entries")
    return gram


@torch.no_grad()
def head_factor(gram: Tensor) -> Tensor:
    """A factor R [d, d] of `gram` [d, d] = R R', float64: Cholesky, the symmetric square root where singular.

    Any factor gives the same spectra, since R'SR has the eigenvalues of S^(1/2) G S^(1/2). ValueError for a
    matrix that is not symmetric and positive semi-definite.

    >>> head_factor(torch.tensor([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    matrix = gram.to(torch.float64)
    scale = matrix.diagonal().abs().sum()
    if not bool((matrix - matrix.T).abs().max() <= 1e-10 * scale):
        raise ValueError("not a Gram matrix: it is not symmetric, or not finite")
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not bool(failed):
        return factor
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if bool(values[0] < -1e-10 * scale):
        raise ValueError(f"not a Gram matrix: eigenvalue {float(values[0]):.3g}")
    factor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return factor


@torch.no_grad()
def through_head(moments: Moments, factor: Tensor) -> Moments:
    """The sums of R'x from those of x: M -> R'MR, s -> R's, shift -> R'shift; `factor` R is [d, k].

    With R from `head_factor`, the covariance of the result has the non-zero eigenvalues of the covariance of
    the logits, centred over tokens and vocabulary, of raw states after the final norm (a per-token normaliser
    would change the logits). Taken block by block it serves the jackknife and the debiased participation ratio.

    >>> moments = Moments.zeros(torch.zeros(2))
    >>> moments.update(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    >>> through_head(moments, torch.tensor([[3.0, 0.0], [0.0, 1.0]])).covariance.tolist()
    [[18.0, 0.0], [0.0, 0.0]]
    """
    factor = factor.to(moments.second)
    return Moments(
        moments.shift @ factor,
        moments.count,
        moments.sequences,
        moments.total @ factor,
        factor.T @ moments.second @ factor,
    )
