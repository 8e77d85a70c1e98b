"""Recipe B: a penalty on parameters, whose gradient is added once for each optimiser step.

By default it comes after the task's gradient was clipped (`on_pre_optimizer_step`), so it is capped by itself and the
logged norm is the task's alone; with `inside_clip` it is there before the first backward of the step, and is clipped
with the rest. Both give the same sum where nothing is clipped: parameters do not change in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.errors import NodeFailed
from limberlm.interventions.seats.callback import Intervention
from limberlm.interventions.seats.refusals import refuse_deepspeed
from limberlm.interventions.settings import InterventionSettings


class ParameterSettings(InterventionSettings):
    """Settings that all penalties on parameters share."""

    weight: float = Field(1.0, ge=0, description="of the penalty beside the trainer's own loss; 0 does nothing")
    cap: float = Field(1.0, gt=0, description="the penalty's gradient is at most so many times max_grad_norm")
    inside_clip: bool = Field(False, description="clip the penalty's gradient together with the task's")


class ParameterPenalty(Intervention, ABC):
    """A penalty lambda * P(parameters) on what the trainer trains."""

    Settings: ClassVar[type[InterventionSettings]] = ParameterSettings

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.weight: float = self.settings.weight
        self.parameters: dict[str, Parameter] = {}

    @abstractmethod
    def gradients(self, parameters: Mapping[str, Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
        """P [] and dP/dparameter in float32 by the parameter's name; names left out have none."""

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Whatever must be ready before the first step; `parameters` is."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the trained parameters."""
        super().on_train_begin(args, state, control, **kwargs)
        refuse_deepspeed(args, self.name)
        # what TRL keeps as the reference is frozen
        self.parameters = {n: p for n, p in kwargs["model"].named_parameters() if p.requires_grad}
        if self.weight:
            self.begin(kwargs["model"], args, state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the gradient, if it is to be clipped with the task's."""
        if self.weight and self.settings.inside_clip:
            scaler = getattr(kwargs.get("optimizer"), "scaler", None)
            self._add(float("inf"), float(scaler.get_scale()) if scaler is not None else 1.0, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the gradient beside the clipped one of the task."""
        if self.weight and not self.settings.inside_clip:
            clip = float(args.max_grad_norm or 0)
            self._add(self.settings.cap * clip if clip > 0 else float("inf"), 1.0, state.global_step)

    @torch.no_grad()
    def _add(self, most: float, scale: float, step: int) -> None:
        value, gradients = self.gradients(self.parameters)
        sizes = torch.stack([gradient.norm() for gradient in gradients.values()] or [torch.zeros(())])
        size = sizes.norm() * self.weight
        if not bool(size.isfinite() & value.isfinite()):
            raise NodeFailed(
                f"{self.name}: the penalty is not finite at step {step + 1}: lower its weight or the learning rate"
            )
        capped = bool(size > most)
        factor = self.weight * scale * (most / float(size) if capped else 1.0)
        for name, gradient in gradients.items():
            _accumulate(self.parameters[name], gradient, factor)
        self.note("", value)
        self.note("_norm", size)
        self.note("_capped", torch.tensor(float(capped)))


def _accumulate(parameter: Parameter, gradient: Tensor, factor: float) -> None:
    if parameter.grad is None:
        parameter.grad = (gradient * factor).to(parameter.dtype)
    else:
        parameter.grad.add_(gradient, alpha=factor)
