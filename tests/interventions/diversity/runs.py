"""DiversityRegularizer in real trainers on the tiny model, looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerCallback

from limberlm.interventions.diversity.reference import Live
from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from tests.observe.training.test_callback_trainers import lora

SITES = ["block.0", "block.1"]
ACTIVE: dict[str, Any] = {"sites": SITES, "reference": 40.0, "per_sequence": None}
"""Always below its reference: the width is 32."""


class Gradients(TrainerCallback):
    """Keeps every optimiser step's gradient, as one vector."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = [p.grad.flatten() for p in kwargs["model"].parameters() if p.grad is not None]
        self.steps.append(torch.cat(found).clone())


class Evaluates(TrainerCallback):
    """Asks for an evaluation after every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_evaluate = True


class Counted(DiversityRegularizer):
    """Counts its penalties by site, and keeps their values."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[tuple[str, int, float]] = []
        self.states: list[tuple[Any, str, Tensor]] = []
        self.batches: list[Any] = []
        self.references: list[float] = []

    def penalty(self, states: Tensor, batch: Any, site: str) -> tuple[Tensor, Tensor]:
        value, gradient = super().penalty(states, batch, site)
        self.states.append((batch, site, states.clone()))
        if isinstance(self._reference, Live):
            self.batches.append(batch)
            self.references.append(float(self._reference.of(site)))
        self.seen.append((site, len(states), value.item()))
        return value, gradient


def exact(base: Path, adapted: bool) -> Any:
    """The tiny model in float64, without dropout; an adapter that already does something."""
    model: Any = LlamaForCausalLM.from_pretrained(base, dtype=torch.float64)
    if not adapted:
        return model
    config = lora()
    config.lora_dropout = 0.0
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def flat(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
