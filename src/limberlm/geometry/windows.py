"""Spectra within one sequence, and likeness of two, all from the token Gram of a window.

Take windows [B, W, d], the first W = 64 kept states of B sequences at one site, normalised by the caller.
Everything is float64 and W x W. A value that a sequence does not have is NaN there, never an exception. Rows
of one sequence are dependent, so levels are ordinal: compare them at one W, not with spectra over all tokens.
"""

from __future__ import annotations

from math import exp, log, nan

import torch
from torch import Tensor

from limberlm.geometry.averages import mean
from limberlm.geometry.trajectories import WINDOW
from limberlm.geometry.undefined import Undefined

ROUNDING = 1e-13
"""Below this share of the mean |x|^2 a spread is the rounding of float32 states, not spread."""


@torch.no_grad()
def spectral_values(windows: Tensor) -> dict[str, Tensor]:
    """A window's spectra from one token Gram: `diff_erank`, `matrix_entropy` [B] and `trajectory_rank` [B, 2].

    They are `diff_erank_entropy`, `matrix_entropy` and `trajectory_rank_parts`.

    >>> {name: tuple(value.shape) for name, value in spectral_values(torch.zeros(3, 64, 8)).items()}
    {'diff_erank': (3,), 'matrix_entropy': (3,), 'trajectory_rank': (3, 2)}
    """
    gram = token_gram(windows)
    return {
        "diff_erank": _unit_row_entropy(gram),
        "matrix_entropy": _normalised_entropy(gram, windows.shape[2]),
        "trajectory_rank": _rank_parts(gram),
    }


@torch.no_grad()
def token_gram(windows: Tensor) -> Tensor:
    """Products x_i'x_j of the states of each window [B, W, d], not centred; [B, W, W] float64."""
    if windows.ndim != 3 or windows.shape[1] < 4:
        raise ValueError(f"windows are [B, W, d] with W at least 4, these have shape {tuple(windows.shape)}")
    states = windows.to(torch.float64)
    return states @ states.mT


@torch.no_grad()
def diff_erank_entropy(windows: Tensor) -> Tensor:
    """Entropy of the spectrum of each window's centred unit rows; [B] in nats.

    Centre the W states, divide each by its norm, Sigma = Z'Z/W, H = -sum p ln p over its eigenvalues: in [0,
    ln min(W-1, d)]; falls as the tokens of a sequence become alike. Invariant to rotation, translation and
    positive scale. States equal to the mean have no direction and are left out; NaN where all are. Source:
    2401.17139 (Diff-eRank), whose reference is an untrained net, ours the base.

    >>> corners = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]]])
    >>> round(diff_erank_entropy(corners).exp().item(), 6)
    2.0
    """
    return _unit_row_entropy(token_gram(windows))


@torch.no_grad()
def matrix_entropy(windows: Tensor) -> Tensor:
    """Von Neumann entropy of each window's token Gram K over ln min(W, d), -sum p ln p / ln min(W, d); [B].

    p are the eigenvalues of K / tr K, not centred; in [0, 1]; falls as tokens become alike, an offset included.
    Invariant to rotation and positive scale. NaN where all states are zero or d is 1. The limit alpha -> 1 of
    2502.02013 (its released code also clamps negative entries of K, which this does not).

    >>> matrix_entropy(torch.eye(4).reshape(1, 4, 4)).item()
    1.0
    """
    return _normalised_entropy(token_gram(windows), windows.shape[2])


@torch.no_grad()
def trajectory_rank_parts(windows: Tensor) -> Tensor:
    """Row-debiased (tr Sigma)^2 and tr(Sigma^2) of each window, [B, 2]; their ratio is a participation ratio.

    With K the token Gram and (n)_k the falling factorials of n = W,

        A2, A3, A4 = sum K_ij^2, K_ij K_jk, K_ij K_kl,  B2, B3 = sum K_ii K_jj, K_ii K_jk, over distinct indices,
        (tr Sigma)^2 = B2/(n)_2 - 2 B3/(n)_3 + A4/(n)_4,  tr(Sigma^2) = A2/(n)_2 - 2 A3/(n)_3 + A4/(n)_4.

    Both are unbiased for independent rows; the second is HSIC(K, K), zero or below only by noise. Both are 0
    without spread. 2509.26560 (gamma_row).
    """
    return _rank_parts(token_gram(windows))


def diff_erank(entropies: Tensor) -> Tensor:
    """Exponential of the mean over sequences of `diff_erank_entropy` [s]; 0-d float64 in [1, min(W-1, d)].

    Falls as the tokens of a sequence become alike. NaN entries are left out; Undefined when none is left.
    2401.17139.

    >>> round(diff_erank(torch.tensor([2.0, 8.0]).log()).item(), 6)
    4.0
    """
    return mean(entropies).exp()


def trajectory_rank(parts: Tensor) -> Tensor:
    """Mean over sequences of the debiased participation ratio of a window; `parts` [s, 2], result 0-d float64.

    About [1, d], noise may exceed d; falls as trajectories stay in fewer directions. Sequences without spread,
    or whose tr(Sigma^2) is estimated at zero or below, have none and are left out; Undefined when none is left.
    Our choice, on 2509.26560.

    >>> trajectory_rank(torch.tensor([[8.0, 2.0], [9.0, 1.5], [0.0, 0.0]])).item()
    5.0
    """
    above, below = _columns(parts)
    return mean(torch.where(below > 1e-12 * above, above / below, nan))


def trajectory_rank_pooled(parts: Tensor) -> Tensor:
    """Sum over sequences of (tr Sigma)^2 over that of tr(Sigma^2); `parts` [s, 2], result 0-d float64.

    As `trajectory_rank`, steadier, and weighted towards sequences of large spread. Undefined when the sum of
    tr(Sigma^2) is zero or below. Our choice.

    >>> trajectory_rank_pooled(torch.tensor([[8.0, 2.0], [9.0, 1.5], [0.0, 0.0]])).item()
    4.857...
    """
    above, below = (column[~column.isnan()].sum() for column in _columns(parts))
    if not float(below) > 1e-12 * float(above):
        raise Undefined("the estimate of tr(Sigma^2) is zero: no sequence with spread")
    return above / below


@torch.no_grad()
def hsic_vectors(windows: Tensor) -> Tensor:
    """U-centred token Grams of unit length, [B, W * W]: two windows' inner product is their debiased CKA.

    Rows of two windows are aligned by position. U-centring (Szekely and Rizzo) takes from each off-diagonal
    entry its row and column sums over W - 2, adds the total over (W-1)(W-2), and clears the diagonal; then
    W (W-3) HSIC(K, L) = sum U_K U_L, and dividing by |U_K| |U_L| gives HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
    About 0 for unrelated sequences; rises as all take the same path. NaN where states have no spread.
    HSIC of 2010.15327; the use on windows is our choice.

    >>> vectors = hsic_vectors(torch.arange(24.0).reshape(1, 6, 4).sin())
    >>> round((vectors @ vectors.T).item(), 6)
    1.0
    """
    gram = _centred(token_gram(windows))
    count = gram.shape[1]
    scale = gram.diagonal(dim1=1, dim2=2).sum(1)
    gram.diagonal(dim1=1, dim2=2).zero_()
    rows = gram.sum(2, keepdim=True) / (count - 2)
    centred = gram - rows - rows.mT + rows.sum(1, keepdim=True) / (count - 1)
    centred.diagonal(dim1=1, dim2=2).zero_()
    flat = centred.flatten(1)
    length = flat.norm(dim=1)
    return torch.where((length > 1e-12 * scale)[:, None], flat / length[:, None], nan)


def null_diff_erank(width: int, points: int = WINDOW) -> float:
    """Independent directions: exp(ln m - (m-1)/(2B)), m and B the smaller and larger of `width` and points - 1.

    Unit rows lack the variance of Gaussian norms, so this is up to 1.5 % above `null_effective_rank`. Good to
    0.3 %, the worst at width = points.

    >>> round(null_diff_erank(256), 1)
    55.8
    """
    return exp(_null_entropy(points - 1, width))


def null_matrix_entropy(width: int, points: int = WINDOW) -> float:
    """Independent directions (`rms` states), not centred: as `null_diff_erank` with all points. Undefined at width 1.

    Norms that vary (`raw` states) lower it, by 0.003 for Gaussian ones at width 64.

    >>> round(null_matrix_entropy(256), 3)
    0.97
    """
    if width < 2:
        raise Undefined("one dimension has one eigenvalue, whose entropy is always 0")
    return _null_entropy(points, width) / log(min(points, width))


def _null_entropy(rows: int, width: int) -> float:
    """Of the spectrum of independent unit rows, to second order: E sum p^2 = 1/rows + (1 - 1/rows)/width."""
    smaller, larger = sorted((rows, width))
    return log(smaller) - (smaller - 1) / (2 * larger)


def _centred(gram: Tensor) -> Tensor:
    """The Gram of the centred states; what is only rounding is set to zero."""
    size = gram.diagonal(dim1=1, dim2=2).mean(1)
    means = gram.mean(2, keepdim=True)
    centred = gram - means - means.mT + means.mean(1, keepdim=True)
    spread = centred.diagonal(dim1=1, dim2=2) > ROUNDING * size[:, None]
    return torch.where(spread[:, :, None] & spread[:, None, :], centred, 0.0)


def _entropies(gram: Tensor) -> Tensor:
    """-sum p ln p of the eigenvalues of each matrix, p their shares; NaN for matrices of zeros."""
    spectrum = torch.linalg.eigvalsh(gram).clamp(min=0.0)
    entropies: Tensor = torch.special.entr(spectrum / spectrum.sum(1, keepdim=True)).sum(1)
    return entropies


def _unit_row_entropy(gram: Tensor) -> Tensor:
    centred = _centred(gram)
    norms = centred.diagonal(dim1=1, dim2=2).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return _entropies(centred * inverse[:, :, None] * inverse[:, None, :])


def _normalised_entropy(gram: Tensor, width: int) -> Tensor:
    most = min(gram.shape[1], width)
    finite = torch.isfinite(gram).all(2).all(1)  # eigvalsh of all windows fails on one NaN
    entropies = _entropies(torch.where(finite[:, None, None], gram, 0.0))
    return entropies / log(most) if most > 1 else torch.full_like(entropies, nan)


def _rank_parts(gram: Tensor) -> Tensor:
    gram = _centred(gram)
    n = gram.shape[1]
    diagonal = gram.diagonal(dim1=1, dim2=2)
    squares, rows = diagonal.square().sum(1), gram.sum(2)
    frobenius, trace, crossed = gram.square().sum((1, 2)), diagonal.sum(1), (rows * diagonal).sum(1)
    off = rows.sum(1) - trace
    a2 = frobenius - squares
    a3 = rows.square().sum(1) - frobenius - 2 * crossed + 2 * squares
    a4 = off.square() - 4 * a3 - 2 * a2
    b2, b3 = trace.square() - squares, trace * off - 2 * (crossed - squares)
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    last = a4 / (triples * (n - 3))
    return torch.stack([b2 / pairs - 2 * b3 / triples + last, a2 / pairs - 2 * a3 / triples + last], 1)


def _columns(parts: Tensor) -> tuple[Tensor, Tensor]:
    if parts.ndim != 2 or parts.shape[1] != 2:
        raise ValueError(f"parts are [s, 2], these have shape {tuple(parts.shape)}")
    above, below = parts.to(torch.float64).unbind(1)
    return above, below
