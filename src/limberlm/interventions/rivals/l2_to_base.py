"""`L2ToBase`: hold the weights to those the stage started from, by the square of the distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.interventions.decorrelation.formulas import Change, energy
from limberlm.interventions.seats.factors import Factors, alike, stacked, trained_factors
from limberlm.interventions.seats.parameters import ParameterPenalty, ParameterSettings
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.settings import InterventionSettings


class L2Settings(ParameterSettings):
    """Settings of `L2ToBase`."""

    weight: float = Field(0.01, ge=0, description="of the squared distance beside the trainer's own loss")


class L2ToBase(ParameterPenalty):
    """Penalises ||W - W0||^2, summed over all trained weights; W0 is where the stage started.

    For any trainer of TRL: `callbacks=[L2ToBase(weight=0.01)]`. Of a LoRA adapter the distance is that of what it does
    to the weights, s^2 ||B A - B0 A0||^2 with its scale s, never of the factors; B0 A0 is 0 unless the stage goes on
    training an adapter. Other trained weights, all of a full training, are held to a copy of their start.

    Logged: `limber/l2_to_base` (the squared distance), `_norm` (of the added gradient) and `_capped` (how often it met
    the cap).

    Args:
        settings: those of `L2Settings`.

    Raises:
        UserError: a setting is wrong.

    Source: L2-SP, 1802.01483, there with a factor of 1/2 and of all weights.

    >>> L2ToBase(weight=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: l2_to_base: weight: Input should be greater than or equal to 0 (got -1)
    """

    name: ClassVar[str] = "l2_to_base"
    Settings: ClassVar[type[InterventionSettings]] = L2Settings

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Take the start; a fresh adapter's is 0."""
        factors = trained_factors(model, self.parameters, self.name)
        start = StartParameters.of(model, args, state, self.name).values
        paired = {name for each in factors for name in (each.A, each.B)}
        self._groups = alike(factors)
        self._moved = any(bool(start[each.B].any()) for each in factors)
        self._start = {n: v for n, v in start.items() if n not in paired or self._moved}
        self._others = [name for name in start if name not in paired]

    def gradients(self, parameters: Mapping[str, Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared distance and its gradients."""
        values, gradients = [], dict[str, Tensor]()
        for like in self._groups:
            A, B = [each.A for each in like], [each.B for each in like]
            value, dB, dA = self._distance(like, parameters)
            values.append(value)
            gradients |= dict(zip(B, dB.unbind(), strict=True)) | dict(zip(A, dA.unbind(), strict=True))
        for name in self._others:
            moved = stacked(parameters, [name])[0] - self._start[name]
            values.append(torch.linalg.vector_norm(moved).double().square())
            gradients[name] = moved.mul_(2)
        return torch.stack(values).sum(), gradients

    def _distance(self, like: list[Factors], parameters: Mapping[str, Parameter]) -> tuple[Tensor, Tensor, Tensor]:
        """The squared distance s^2 ||B A - B0 A0||^2 of like modules, and its gradients by B and A."""
        A, B = [each.A for each in like], [each.B for each in like]
        start = (stacked(self._start, B), stacked(self._start, A)) if self._moved else None
        change = Change.of(stacked(parameters, B), stacked(parameters, A), start)
        squares, R, L = energy(change)
        scale = torch.tensor([each.scale for each in like], dtype=torch.float64, device=R.device).square()
        twice = 2 * scale[:, None, None].to(R)
        return (scale * squares).sum(), change.left @ (twice * R), (twice * L) @ change.right
