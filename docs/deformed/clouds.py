"""Clouds of token states with a known shape, and what is done to them to see which metric reacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor

WIDTH, SEQUENCES, TOKENS, DOMAINS = 128, 64, 72, 4
SHARED = 0.2
"""Share of the variance that the tokens of a sequence have in common; half as much is common to a domain."""


@dataclass(frozen=True)
class Cloud:
    """States [S, T, d] of S sequences, the domain [S] of each, and the part of the states [S, d] that is the domain."""

    states: Tensor
    domain: Tensor
    part: Tensor

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Cloud:
        """The cloud with other states."""
        return replace(self, states=function(self.states))


@dataclass(frozen=True)
class Deformation:
    """Something done to a cloud: a name for the picture, and the function, which may draw from a seed."""

    name: str
    act: Callable[[Cloud, int], Cloud]


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(width: int, seed: int) -> Tensor:
    """A random rotation [d, d]."""
    turned: Tensor = torch.linalg.qr(normal(width, width, seed=seed))[0]
    return turned


def cloud(seed: int) -> Cloud:
    """Eigenvalues 1/i, a fixed offset, four domains, tokens of a sequence that share a fifth of the variance."""
    scales = torch.arange(1, WIDTH + 1, dtype=torch.float64).rsqrt()
    domain = torch.arange(SEQUENCES) % DOMAINS
    centres = normal(DOMAINS, WIDTH, seed=1)  # the same at every seed: domains are no matter of chance
    part = sqrt(SHARED / 2) * ((centres - centres.mean(0)) * scales)[domain]
    shared = sqrt(SHARED) * normal(SEQUENCES, 1, WIDTH, seed=10_000 + seed) * scales
    own = sqrt(1 - 1.5 * SHARED) * normal(SEQUENCES, TOKENS, WIDTH, seed=20_000 + seed) * scales
    offset = 0.5 * normal(WIDTH, seed=2) * scales.square().mean().sqrt()
    return Cloud(part[:, None] + shared + own + offset, domain, part)


def _steeper(cloud: Cloud, seed: int) -> Cloud:
    ranks = torch.arange(1, WIDTH + 1, dtype=torch.float64)
    return cloud.mapped(lambda x: _centre(x) + (x - _centre(x)) * ranks**-0.25)


def _sink(cloud: Cloud, seed: int) -> Cloud:
    stretch = torch.ones(WIDTH, dtype=torch.float64)
    stretch[0] = 3.0
    return cloud.mapped(lambda x: _centre(x) + (x - _centre(x)) * stretch)


def _offset(cloud: Cloud, seed: int) -> Cloud:
    def act(x: Tensor) -> Tensor:
        direction, size = normal(WIDTH, seed=3), (x - _centre(x)).norm(dim=2).mean()
        moved: Tensor = x + size * direction / direction.norm()
        return moved

    return cloud.mapped(act)


def _massive(cloud: Cloud, seed: int) -> Cloud:
    def act(x: Tensor) -> Tensor:
        rows, direction = x.flatten(0, 1).clone(), normal(WIDTH, seed=4)
        rows[128::256] = 100 * rows.norm(dim=1).mean() * direction / direction.norm()
        return rows.view_as(x)

    return cloud.mapped(act)


def _rogue(cloud: Cloud, seed: int) -> Cloud:
    stretch = torch.ones(WIDTH, dtype=torch.float64)
    stretch[4] = 30.0
    return cloud.mapped(lambda x: x * stretch)


def _merged(cloud: Cloud, seed: int) -> Cloud:
    return replace(cloud, states=cloud.states - cloud.part[:, None], part=torch.zeros_like(cloud.part))


def _alike(cloud: Cloud, seed: int) -> Cloud:
    return cloud.mapped(lambda x: (x + x.mean(1, keepdim=True)) / 2)


def _blended(cloud: Cloud, seed: int) -> Cloud:
    """Each state becomes the mean of itself and the three after it; the last three are left out."""
    return cloud.mapped(lambda x: x.unfold(1, 4, 1).mean(3))


def _half(cloud: Cloud, seed: int) -> Cloud:
    kept = slice(0, SEQUENCES // 2)
    return Cloud(cloud.states[kept], cloud.domain[kept], cloud.part[kept])


def _centre(states: Tensor) -> Tensor:
    middle: Tensor = states.mean((0, 1))
    return middle


STATES = (
    Deformation("spectrum made steeper", _steeper),
    Deformation("top direction x 3 (a sink)", _sink),
    Deformation("offset added to every token", _offset),
    Deformation("one massive token in 256", _massive),
    Deformation("one coordinate x 30 (rogue)", _rogue),
    Deformation("domains merged", _merged),
    Deformation("tokens of a text drawn together", _alike),
    Deformation("neighbouring tokens blended", _blended),
    Deformation("half as many texts", _half),
    Deformation("states rotated", lambda cloud, seed: cloud.mapped(lambda x: x @ rotation(WIDTH, 5))),
    Deformation("states x 10", lambda cloud, seed: cloud.mapped(lambda x: 10 * x)),
)
"""The fixed list, in the order it is drawn; the last two are what most metrics should not see."""
