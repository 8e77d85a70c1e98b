"""One of two processes that each add some of the rows and then sum over both: RANK STORE."""

from __future__ import annotations

import sys
from dataclasses import fields

import torch
import torch.distributed as dist

from limberlm.geometry import CrossMoments, Directions, Moments
from limberlm.geometry.domains import DomainSums

X = torch.arange(24, dtype=torch.float64).reshape(8, 3).square()
Y, DOMAIN = X[:, :2].sqrt() - 1, torch.arange(8) % 2
Sums = Moments | CrossMoments | Directions | DomainSums


def every_sum(part: slice, shift: float) -> list[Sums]:
    """Every kind of sum that can be reduced, of a part of the rows."""
    about, beside = torch.full((3,), shift), torch.full((2,), -shift)
    moments, domains = Moments.zeros(about), DomainSums.zeros(about, 2)
    cross, directions = CrossMoments.zeros(about, beside), Directions.zeros(3)
    moments.update(X[part], sequences=len(X[part]))
    domains.update(X[part], DOMAIN[part])
    cross.update(X[part], Y[part])
    directions.update(X[part])
    return [moments, domains, cross, directions]


def assert_same(found: Sums, expected: Sums) -> None:
    for field in fields(expected):
        pair = getattr(found, field.name), getattr(expected, field.name)
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-9, msg=f"{type(found).__name__}.{field.name}: {pair}")


if __name__ == "__main__":
    rank, store = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for cut in (0, 3):  # the first process has none of the rows, then some
        mine = every_sum(slice(cut) if rank == 0 else slice(cut, None), 2.0 + rank)
        for sums, whole in zip(mine, every_sum(slice(None), 2.0), strict=True):
            sums.all_reduce()
            assert_same(sums, whole)
    dist.destroy_process_group()
