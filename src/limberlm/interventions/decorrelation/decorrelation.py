"""`UpdateDecorrelation`: keep a stage's LoRA update apart from those of the stages before it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.errors import UserError
from limberlm.interventions.context import StageContext
from limberlm.interventions.decorrelation.adapters import Pool
from limberlm.interventions.decorrelation.formulas import Terms
from limberlm.interventions.decorrelation.groups import OLoraGroup, OverlapGroup, olora_groups, overlap_groups
from limberlm.interventions.seats.factors import Factors, trained_factors
from limberlm.interventions.seats.parameters import ParameterPenalty, ParameterSettings
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.settings import InterventionSettings

CLEARLY = 0.1
"""How far above chance an overlap before the first step is told (our choice; unrelated stages are within 0.02)."""

_Group = OverlapGroup | OLoraGroup
_log = logging.getLogger(__name__)


class DecorrelationSettings(ParameterSettings):
    """Settings of `UpdateDecorrelation`."""

    kind: Literal["overlap", "olora"] = Field("overlap", description="scale-free overlaps, or O-LoRA's sum |A_s A'|")
    update: float = Field(1.0, ge=0, description="of cos^2 between the stages' updates (L_upd)")
    inputs: float | None = Field(
        None,
        ge=0,
        description="of the input directions shared beyond chance (L_sub); 0.5, or 0 for an adapter that is continued",
    )
    outputs: float = Field(0.0, ge=0, description="of the output directions shared beyond chance (L_out)")
    tau: float = Field(0.05, gt=0, le=1, description="an update of this share of the earlier one is pushed by half")
    norm: float = Field(0.0, ge=0, description="with olora: of the factors' norms, for each unit of the overlap")

    @model_validator(mode="after")
    def _fit(self) -> DecorrelationSettings:
        other = {"overlap": ("norm",), "olora": ("update", "inputs", "outputs", "tau")}[self.kind]
        for name in other:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {getattr(self, name):g} means nothing with kind: {self.kind}; leave it out")
        if self.update == self.outputs == self.inputs == 0:
            raise ValueError("update, inputs and outputs are all 0; weight: 0 is how to do nothing")
        return self

    def terms(self, fresh: bool) -> Terms:
        """What is penalised; of a continued adapter, whose directions are those of earlier stages too, L_upd alone."""
        inputs = (0.5 if fresh else 0.0) if self.inputs is None else self.inputs
        return Terms(self.update, inputs, self.outputs, self.tau)

    @property
    def unfit_to_continue(self) -> str | None:
        """Why it cannot be had where the stage goes on training an adapter, or None."""
        asked = next(
            (f"{name}: {getattr(self, name):g}" for name in ("inputs", "outputs") if getattr(self, name)), None
        )
        if self.kind == "olora" or not self.update:
            asked = "kind: olora" if self.kind == "olora" else "update: 0"
        if asked is None:
            return None
        return (
            f"{asked}: the stage goes on training an adapter, whose directions are those of what it learnt before; "
            "only update acts there"
        )


class UpdateDecorrelation(ParameterPenalty):
    """Penalises the overlap of the LoRA update being trained with those of earlier stages.

    For any trainer of TRL: `callbacks=[UpdateDecorrelation(past=["runs/sft/adapter"], weight=1.0)]`. The penalty is
    `update` L_upd + `inputs` L_sub + `outputs` L_out (`formulas`): cos^2 of the updates, and the shares of their input
    and output directions in common beyond chance. Its gradient is in closed form, without any d x d matrix.

    Logged: `limber/decorrelation` (the penalty), `_cosine_squared`, `_inputs` and `_outputs` (means over modules and
    stages of cos^2 and of the overlaps of directions; by chance 1/(d_out d_in) and max(r_s, r)/d), `_norm` (of the
    added gradient) and `_capped` (how often it met the cap).

    Where the stage goes on training an adapter, its own update is B A - B0 A0 and only L_upd is meant: the directions
    are those of what it has learnt before.

    Args:
        past: folders of the adapters that earlier stages left, in order; LoRA or rsLoRA, of any rank.
        continued: each stage went on training the adapter of the one before, so that the folders hold sums.
        base: the model before the first stage; only needed where the adapters' bases have different names because
            stages were merged.
        settings: those of `DecorrelationSettings`.

    Raises:
        UserError: a setting is wrong, or an adapter cannot be read or used.

    >>> UpdateDecorrelation(past=[])
    Traceback (most recent call last):
    limberlm.errors.UserError: decorrelation: past=[]: give a list of the folders of earlier stages' adapters
    """

    name: ClassVar[str] = "decorrelation"
    Settings: ClassVar[type[InterventionSettings]] = DecorrelationSettings

    def __init__(
        self,
        past: Sequence[str | Path],
        *,
        continued: bool = False,
        base: str | Path | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        try:
            self.pool = Pool.open(past, continued=continued, base=base)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        self._groups: Sequence[_Group] = ()

    @classmethod
    def of_stage(cls, settings: DecorrelationSettings, context: StageContext) -> UpdateDecorrelation:
        """As a study's stage has it: apart from the adapters that the earlier stages of its chain left.

        Raises:
            UserError: they left none.

        """
        if not context.earlier:
            raise UserError(f"{cls.name}: no earlier stage of the chain left an adapter; train them with one")
        held = context.hand_over == "continue"
        return cls(past=context.earlier, continued=held, base=context.base, **settings.model_dump())

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Read the past of each trained module, and the trained adapter's own start.

        Raises:
            UserError: no LoRA adapter is trained, or the past's adapters belong to another model.

        """
        factors = trained_factors(model, self.parameters, self.name)
        if not factors:
            raise UserError(f"{self.name}: the trainer trains no LoRA adapter; give it a peft_config, or leave it out")
        start = StartParameters.of(model, args, state, self.name).values
        fresh = not any(bool(start[each.B].any()) for each in factors)
        if not fresh and self.settings.unfit_to_continue:
            raise UserError(f"{self.name}: {self.settings.unfit_to_continue}")
        try:
            self.pool.refuse_other_model(factors, _name(model))
            self._groups = self._grouped(factors, None if fresh else start)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        if fresh:
            self._warn_of_one_seed(start)

    def gradients(self, parameters: Mapping[str, Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
        """The penalty and its gradients; notes the overlaps for the log."""
        found = [group(parameters) for group in self._groups]
        for key in found[0].seen:
            self.note(f"_{key}", torch.stack([each.seen[key] for each in found]).sum())
        gradients = {name: gradient for each in found for name, gradient in each.gradients.items()}
        return torch.stack([each.value for each in found]).sum(), gradients

    def _grouped(self, factors: Sequence[Factors], start: Mapping[str, Tensor] | None) -> Sequence[_Group]:
        if self.settings.kind == "olora":
            return olora_groups(factors, self.pool, self.parameters, self.settings.norm)
        terms = self.settings.terms(fresh=start is None)
        return overlap_groups(factors, self.pool, self.parameters, terms, start)

    def _warn_of_one_seed(self, start: Mapping[str, Tensor]) -> None:
        """A trainer's seed decides A: two stages with one seed overlap before the first step."""
        groups = [group for group in self._groups if isinstance(group, OverlapGroup)]
        shared = sum(float(group.overlap(start).inputs) for group in groups)
        chance = sum(group.chance() for group in groups)
        if shared > chance + CLEARLY:
            _log.warning(
                "%s: before the first step the input directions overlap by %.2f with those of the past, where chance "
                "gives %.2f: a seed began two stages; give each its own",
                self.name,
                shared,
                chance,
            )


def _name(model: Any) -> str:
    """What the base calls itself: its path or hub id."""
    return str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
