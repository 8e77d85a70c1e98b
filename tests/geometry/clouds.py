"""Seeded clouds with known spectra, shared by the geometry tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limberlm.geometry import Moments


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def power_law(d: int, alpha: float) -> Tensor:
    return torch.arange(1, d + 1, dtype=torch.float64) ** -alpha


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=seed))[0]


def sequences(count: int, tokens: int, eigs: Tensor, correlation: float, seed: int) -> Tensor:
    """[count, tokens, d] Gaussian states; tokens of one sequence share `correlation` of their variance."""
    shared = normal(count, 1, len(eigs), seed=seed) * math.sqrt(correlation)
    own = normal(count, tokens, len(eigs), seed=seed + 1_000_000) * math.sqrt(1 - correlation)
    return (shared + own) * eigs.sqrt()


def moments(rows: Tensor, shift: Tensor | None = None) -> Moments:
    sums = Moments.zeros(torch.zeros(rows.shape[-1]) if shift is None else shift)
    sums.update(rows.reshape(-1, rows.shape[-1]))
    return sums


def blocks(rows: Tensor, count: int = 16) -> list[Moments]:
    """Consecutive parts of the first dimension, so that a sequence never straddles two."""
    return [moments(part) for part in rows.chunk(count)]


def merged(parts: list[Moments]) -> Moments:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole
