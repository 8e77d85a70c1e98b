"""Statistics of a small model that need no pass: random second moments, whose bases are found through Cholesky."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig

SHARED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


def moment(generator: torch.Generator, d: int) -> Tensor:
    """Of inputs whose directions differ a hundredfold in size."""
    inputs = torch.randn(3 * d, d, generator=generator, dtype=torch.float64)
    inputs = inputs * torch.logspace(1, -1, d, dtype=torch.float64)[torch.randperm(d, generator=generator)]
    return inputs.T @ inputs / len(inputs)


def basis(seen: Tensor, task: Tensor, rank: int) -> Basis:
    """By Cholesky of H, another way than the package's."""
    d = len(seen)
    tau = 1e-2 * float(seen.trace()) / d
    inverse = torch.linalg.inv(torch.linalg.cholesky(seen + tau * torch.eye(d, dtype=torch.float64)))
    gamma, R = torch.linalg.eigh(inverse @ task @ inverse.T)
    V, (spectrum, axes) = inverse.T @ R.flip(1), torch.linalg.eigh(seen)
    return Basis(gamma.flip(0).clamp(min=0), V, axes[:, :rank], spectrum, tau, (3 * d, 3 * d))


@dataclass
class Measured:
    """What the callback reads of statistics, and how often it read which moment."""

    modules: Mapping[str, str]
    moments: Mapping[str, Tensor]
    bases: Mapping[str, Basis]
    config: FoloraConfig = field(default_factory=FoloraConfig)
    reads: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, model: nn.Module, **settings: Any) -> Measured:
        """Of the linear layers of a base, but its output layer."""
        linear = {n: m.in_features for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
        return cls.named(linear, **settings)

    @classmethod
    def named(cls, linear: Mapping[str, int], **settings: Any) -> Measured:
        """Of modules, given with what they read, by their names."""
        modules = {name: name[: -len(end)] + SHARED.get(end, end) for name in linear for end in [name.split(".")[-1]]}
        generator = torch.Generator().manual_seed(5)
        widths = {modules[name]: d for name, d in linear.items()}
        moments = {name: moment(generator, d) for name, d in widths.items()}
        bases = {name: basis(each, moment(generator, len(each)), 4) for name, each in moments.items()}
        return cls(modules, moments, bases, FoloraConfig(**settings))

    def basis_of(self, module: str) -> Basis:
        return self.bases[self.modules[module]]

    def proxy_moment(self, module: str) -> Tensor:
        self.reads[self.modules[module]] += 1
        return self.moments[self.modules[module]].float()
