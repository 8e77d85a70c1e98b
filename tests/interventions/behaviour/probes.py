"""Penalties of which everything is known: what they add can be told by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.interventions.seats.activations import ActivationPenalty
from limberlm.interventions.seats.parameters import ParameterPenalty
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import Batch
from limberlm.observe.model.sites import locate


class HalfSquare(ActivationPenalty):
    """R = mean over tokens of ||x||^2 / 2, so dR/dx = x / n."""

    name: ClassVar[str] = "half_square"

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        return states.square().sum(1).mean() / 2, states / len(states)


class FromStart(ActivationPenalty):
    """R = mean over tokens of ||x - x'||^2 / 2, x' the state at the stage's start: a reference pass for each batch."""

    name: ClassVar[str] = "from_start"

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        self.start = StartParameters.of(model, args, state, self.name)

    def prepare(self, batch: Batch, model: nn.Module) -> Batch:
        found = locate(model)
        inputs = {name: batch.inputs.get(name) for name in ("input_ids", "attention_mask", "position_ids")}
        with self.start.swapped_in(model), found.reading(self.sites) as states:
            found.forward(**inputs)
        self.reference = {site: states[site].flatten(0, 1)[batch.index].float() for site in self.sites}
        return batch

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        apart = states - self.reference[site].to(states.dtype)
        return apart.square().sum(1).mean() / 2, apart / len(apart)


class Decay(ParameterPenalty):
    """P = ||parameters||^2 / 2, whose gradient is the parameters."""

    name: ClassVar[str] = "decay"

    def gradients(self, parameters: Mapping[str, Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
        found = {name: parameter.detach().float() for name, parameter in parameters.items()}
        return torch.stack([each.square().sum() for each in found.values()]).sum() / 2, found
