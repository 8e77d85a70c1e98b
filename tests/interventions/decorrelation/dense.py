"""The penalties the obvious way: dense matrices in float64, left to autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limberlm.geometry.low_rank import Factored
from limberlm.interventions.decorrelation.adapters import packed
from limberlm.interventions.decorrelation.formulas import Past, Terms


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def earlier(d_out: int, d_in: int, ranks: Sequence[int], seed: int = 0) -> list[Factored]:
    """One module's past: a change of each rank, with scales of their own."""
    return [
        Factored(normal(d_out, r, seed=seed + 10 * i), normal(r, d_in, seed=seed + 10 * i + 1), 0.5 + i)
        for i, r in enumerate(ranks)
    ]


def past_of(*modules: Sequence[Factored], like: Tensor | None = None) -> Past:
    changes = [[each.bases() for each in module] for module in modules]
    return packed(changes, len(modules), torch.zeros((), dtype=torch.float64) if like is None else like)


def projector(rows: Tensor) -> Tensor:
    """On the rows' span."""
    return rows.mT @ torch.linalg.solve(rows @ rows.mT, rows)


def shared(rows: Tensor, before: Tensor) -> Tensor:
    """tr(P_s P) / min(r_s, r)."""
    return (projector(before) @ projector(rows)).trace() / min(len(rows), len(before))


def penalty(
    B: Tensor,
    A: Tensor,
    past: Sequence[Factored],
    scale: float,
    terms: Terms,
    start: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Of one module, the mean over its stages."""
    total = torch.zeros((), dtype=torch.float64)
    D = scale * (B @ A - (0 if start is None else start[0] @ start[1]))
    q = D.square().sum()
    for each in past:
        dW, rank = each.dense(), each.inner_dimension
        Q = dW.square().sum()
        floor = terms.tau**2 * Q
        total = total + terms.update * (dW * D).sum() ** 2 / (Q * (q + floor))
        if terms.inputs:
            chance = max(rank, len(A)) / A.shape[1]
            total = total + terms.inputs * (shared(A, each.right) - chance).clamp(min=0)
        if terms.outputs and bool(q):
            chance = max(rank, B.shape[1]) / len(B)
            moved = (q / (q + floor)).detach()
            total = total + terms.outputs * moved * (shared(B.mT, each.left.mT) - chance).clamp(min=0)
    return total / len(past)
