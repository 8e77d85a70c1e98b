"""How alike a batch's states are: six penalties that fall as states spread out, each with its gradient in closed form.

All take states [n, d] with n >= 2, one token a row, and return the value R (0-d) and dR/dstates [n, d] in the dtype of
the states. Only each token's direction u = x/|x| counts: R does not change with a token's norm, and no gradient has a
part along its token. A token that is zero has no direction and gets no gradient. Nothing is recorded by autograd;
products over tokens are taken on the smaller side, n x n or d x d.

Z below are the directions less their mean, K = Z'Z.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

POINT = 1e-10
"""States whose directions vary less than this share of their length are one point: nothing can be told of its shape."""


def cosine(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine over pairs of tokens, (|sum u|^2 - n) / (n (n - 1)): sees the mean direction and nothing else.

    In [-1/(n-1), 1]; 0 for independent isotropic states. Gao et al. 1907.12009 (I-STAR's code divides by n^2).

    >>> value, gradient = cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    >>> value.item(), gradient.tolist()
    (0.0, [[0.0, 1.0], [0.5, 0.0]])
    """
    tokens = _Tokens.of(states)
    pairs = len(states) * (len(states) - 1)
    total = tokens.units.sum(0)
    return (total.square().sum() - len(states)) / pairs, tokens.pull(2 / pairs * total)


def cosine_squared(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared cosine over pairs of tokens, (|U'U|^2 - n) / (n (n - 1)): sees the mean direction and the rank.

    In [0, 1]; 1/d for independent isotropic states. With 1/PR_u the inverse participation ratio of the directions
    about zero, 1/PR_u = ((n - 1) R + 1) / n. Our choice.

    >>> value, gradient = cosine_squared(torch.tensor([[1.0, 0.0], [2.0, 2.0]]))
    >>> round(value.item(), 6), round(gradient[0, 1].item(), 6)
    (0.5, 1.0)
    """
    tokens = _Tokens.of(states)
    pairs = len(states) * (len(states) - 1)
    gram, product = _gram(tokens.units)
    return (gram.square().sum() - len(states)) / pairs, tokens.pull(4 / pairs * product)


def participation_ratio(states: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse participation ratio of the directions, |K|^2 / (tr K)^2 = 1/PR: sees the rank, not the mean.

    In [1/min(n - 1, d), 1]; 1/d + 1/(n - 1) for independent isotropic states, of which the second term is sampling
    bias. In place of the effective rank, whose gradient needs eigenvectors. Our choice.

    >>> value, gradient = participation_ratio(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    >>> value.item(), gradient.abs().max().item()
    (0.5, 0.0)
    """
    tokens = _Tokens.of(states)
    centred = tokens.units - tokens.units.mean(0)
    gram, product = _gram(centred)
    total = gram.trace().clamp(min=POINT * len(states))
    value = gram.square().sum() / total**2
    return value, tokens.pull((4 / total**2) * product.sub_(value * total * centred))


def unbiased(inverse_ratio: Tensor, n: int, d: int) -> Tensor:
    """1/PR without the bias 1/(n - 1) of `n` independent tokens, and no less than the 1/d of isotropic states.

    >>> round(unbiased(torch.tensor(0.0233), n=128, d=64).item(), 4)
    0.0156
    """
    return (inverse_ratio - 1 / (n - 1)).clamp(min=1 / d)


def anchored_participation_ratio(states: Tensor, reference: float | Tensor) -> tuple[Tensor, Tensor]:
    """How far, in shares of it, the participation ratio is below a reference: max(0, (PR_ref - PR) / PR_ref).

    In [0, 1). `reference`: PR_ref, without sampling bias, as PR here (`unbiased`). At or above it value and gradient
    are exactly 0. Our choice.

    >>> states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [0.9, 0.1]])
    >>> anchored_participation_ratio(states, reference=1.0)[0].item()
    0.0
    """
    raw, gradient = participation_ratio(states)
    value, slope = shortfall(unbiased(raw, *states.shape), reference)
    return value, gradient.mul_(slope)


def shortfall(inverse_ratio: Tensor, reference: float | Tensor) -> tuple[Tensor, Tensor]:
    """The share of a reference that a participation ratio lacks, given as 1/PR, and its derivative by 1/PR.

    >>> value, slope = shortfall(torch.tensor(0.25), reference=8.0)
    >>> value.item(), slope.item()
    (0.5, 2.0)
    """
    value = (1 - 1 / (reference * inverse_ratio)).clamp(min=0)
    return value, torch.where(value > 0, 1 / (reference * inverse_ratio**2), torch.zeros_like(value))


def vcreg(
    states: Tensor, *, gamma: float = 1.0, variance: float = 1.0, covariance: float = 0.04
) -> tuple[Tensor, Tensor]:
    """Variance and covariance regularisation of states of root mean square 1.

    With C the covariance of the axes and s_j = sqrt(C_jj + 1e-4):

        R = variance mean_j max(0, gamma - s_j) + covariance/d sum_{i != j} C_ij^2

    R >= 0, and the only penalty here that depends on the axes. VICReg 2105.04906, VCReg 2306.13292; the defaults are
    VICReg's 25 to 1.

    >>> value, _ = vcreg(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]))
    >>> round(value.item(), 6)
    0.0
    """
    tokens = _Tokens.of(states)
    n, d = states.shape
    centred = math.sqrt(d) * (tokens.units - tokens.units.mean(0))
    gram, product = _gram(centred)
    variances = centred.square().sum(0) / (n - 1)
    deviations = (variances + 1e-4).sqrt()
    off_axis = gram.square().sum() / (n - 1) ** 2 - variances.square().sum()
    value = variance * (gamma - deviations).clamp(min=0).mean() + covariance / d * off_axis
    pushed = torch.where(deviations < gamma, variance / ((n - 1) * deviations), torch.zeros_like(deviations))
    per_axis = 4 * covariance / (n - 1) * variances + pushed
    slope = product.mul_(4 * covariance / (n - 1) ** 2).sub_(centred * per_axis)
    return value, tokens.pull(slope / math.sqrt(d))


def logdet(states: Tensor, *, epsilon: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Log volume of the directions' covariance of trace 1: -(1/d) log det(K / tr K + epsilon I).

    In [-log(1/d + epsilon), -log(epsilon)], the lower end for an isotropic covariance. A standard form.

    >>> value, _ = logdet(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    >>> round(value.item(), 6) == round(-math.log(0.5 + 1e-3), 6)
    True
    """
    tokens = _Tokens.of(states)
    n, d = states.shape
    centred = tokens.units - tokens.units.mean(0)
    wide = n < d
    gram = centred @ centred.T if wide else centred.T @ centred
    total = gram.trace().clamp(min=POINT * n)
    gram /= total
    ridged = gram.clone()
    ridged.diagonal().add_(epsilon)
    factor = torch.linalg.cholesky_ex(ridged).L  # which neither waits for the device nor raises at a NaN
    value = -(2 * factor.diagonal().log().sum() + (d - len(gram)) * math.log(epsilon)) / d
    inverse = torch.cholesky_inverse(factor)
    product = inverse @ centred if wide else centred @ inverse
    return value, tokens.pull((-2 / (d * total)) * product.sub_((inverse * gram).sum() * centred))


class _Tokens(NamedTuple):
    """Directions [n, d] and what each token's norm divides by [n, 1]."""

    units: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, states: Tensor) -> _Tokens:
        norms = torch.linalg.vector_norm(states, dim=1, keepdim=True)
        inverse = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
        return cls(states * inverse, inverse)

    def pull(self, slope: Tensor) -> Tensor:
        """dR/dx from dR/du: the part across the token, over its norm."""
        along = (self.units * slope).sum(1, keepdim=True)
        return torch.addcmul(slope, along, self.units, value=-1).mul_(self.inverse)


def _gram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """R'R or RR', whichever is smaller, and R R'R."""
    n, d = rows.shape
    if n < d:
        gram = rows @ rows.T
        return gram, gram @ rows
    gram = rows.T @ rows
    return gram, rows @ gram
