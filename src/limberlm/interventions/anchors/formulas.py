"""How far states have turned away from their reference, and the gradient of that."""

from __future__ import annotations

import torch
from torch import Tensor


def anchored(states: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """R = mean_t 2 (1 - cos(x_t, r_t)), in [0, 4], and dR/dx_t = 2/(n ||x_t||) (d_t - (d_t . u_t) u_t) of n tokens.

    With u and v the states and references over their norms and d = u - v, R = mean_t ||d_t||^2, which is the squared
    distance of RMS-normalised states over their width. Written in the difference, value and gradient are exactly 0
    where states and references are equal, which 1 - cos is not in float32. Lengths do not enter: the gradient is
    orthogonal to its state. A state of length 0 has no direction and is not moved.

    Args:
        states: x [n, d].
        reference: r [n, d], of the same tokens.

    Source: our choice of form; representations held near the pretrained ones are REPINA's (arXiv 2205.11603).

    >>> value, gradient = anchored(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]]))
    >>> value, gradient
    (tensor(2.), tensor([[ 0.0000, -0.6667]]))
    """
    norms = states.norm(dim=1, keepdim=True)
    tiny = torch.finfo(states.dtype).tiny
    directions = states / norms.clamp_min(tiny)
    difference = directions - torch.nn.functional.normalize(reference.to(states.dtype), dim=1, eps=tiny)
    value = difference.square().sum(1).mean()
    turning = difference - (difference * directions).sum(1, keepdim=True) * directions
    gradient = torch.where(norms > 0, turning * (2 / (len(states) * norms)), 0.0)
    return value, gradient
