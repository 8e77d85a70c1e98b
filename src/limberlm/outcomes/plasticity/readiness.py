"""Gradient readiness of a student: its first gradients on a future task, before any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from limberlm.outcomes.plasticity.curve import Floats

Loss = Callable[[], Tensor]


def gradient_products(
    losses: Sequence[Loss],
    parameters: Sequence[Tensor],
    curvature: bool = False,
    stepped: Callable[[], None] = lambda: None,
) -> tuple[Floats, Floats | None]:
    """Inner products of the losses' gradients [K, K], and, with `curvature`, g_j' H_{k+1} g_k in place (j, k).

    Args:
        losses: one function for each micro-batch that computes its loss, called once, or twice with `curvature`.
        parameters: what the gradients are taken for; those a loss does not reach count as 0.
        curvature: take Hessian-vector products too, H_{k+1} of the loss after the k-th, the first after the last.
        stepped: called after each gradient.

    Holds K gradients, in the parameters' own type; the products are summed in float64.
    """
    gradients = []
    for loss in losses:
        gradients.append(_flat(torch.autograd.grad(loss(), parameters, allow_unused=True), parameters))
        stepped()
    every = torch.stack(gradients)
    gram = _products(every, every)
    if not curvature:
        return gram, None
    turned = [_hessian_times(losses[(k + 1) % len(losses)], parameters, every[k]) for k in range(len(losses))]
    return gram, _products(every, torch.stack(turned))


def _hessian_times(loss: Loss, parameters: Sequence[Tensor], vector: Tensor) -> Tensor:
    """The Hessian of a loss times a vector, by differentiating twice."""
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        first = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
    along = _dot(first, vector, parameters)
    return _flat(torch.autograd.grad(along, parameters, allow_unused=True), parameters)


def _dot(gradients: Sequence[Tensor | None], vector: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    parts = vector.split([p.numel() for p in parameters])
    terms = [(g.flatten() * v).sum() for g, v in zip(gradients, parts, strict=True) if g is not None]
    return torch.stack(terms).sum()


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g.detach()).flatten() for g, p in pairs])


def _products(rows: Tensor, columns: Tensor) -> Floats:
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for a, b in zip(rows.split(BLOCK, 1), columns.split(BLOCK, 1), strict=True):
        total += (a.double() @ b.double().T).cpu()
    found: Any = total.numpy()
    return found  # type: ignore[no-any-return]


BLOCK = 1 << 20
"""Parameters multiplied at a time, so that no second copy of all gradients is made."""
