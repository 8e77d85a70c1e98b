"""`FoloraCallback`: how far a LoRA run has moved the outputs on the proxy, logged, bounded or penalised."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import Parameter

from limberlm.interventions.folora.meter import Meter, Step
from limberlm.interventions.seats.factors import trained_factors
from limberlm.interventions.seats.parameters import ParameterPenalty, ParameterSettings
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.training.trainer import publish

if TYPE_CHECKING:
    from limberlm.interventions.folora.stats import FoloraStats

_log = logging.getLogger(__name__)


class DriftSettings(ParameterSettings):
    """Settings of `FoloraCallback`."""

    weight: float = Field(
        0.0, ge=0, alias="penalty", description="of tr(dW Cp dW'), summed over the modules, beside the trainer's loss"
    )
    every: int = Field(50, ge=1, description="steps between measurements; the last step is measured too")
    max_drift: float | None = Field(None, gt=0, description="training stops where a module's drift is above it")


class FoloraCallback(ParameterPenalty):
    """Measures the drift of each module's outputs on the proxy, without a forward pass, and can penalise it.

    For any trainer of TRL and any plain LoRA adapter, under foundation-preserving LoRA's optimizer or another one:
    `callbacks=[FoloraCallback(stats)]`. The drift of a module is tr(dW Cp dW') / tr(W0 Cp W0'): the mean square of what
    training has added to its outputs on the proxy's inputs, over that of the outputs that it began with. A `penalty` of
    w adds the gradient of w sum tr(dW Cp dW') before each step.

    Logged every `every` steps: `limber/folora_drift` (the modules' mean), `_drift_max`, `_step` (the root mean square
    of what the step changed in A, over its learning rate: about 1 under Adam) and `_floor` (the share of it along
    directions whose gate is at its floor). With a penalty also `limber/folora` (its value, without the weight), `_norm`
    (of the added gradient) and `_capped` (how often it met the cap).

    Each Cp is read once a measurement. A penalty reads each once, and holds them beside the weights, in as much memory
    as the basis takes.

    Attributes:
        stats: of the model's modules.
        drifts: by module, as last measured.

    Args:
        stats: what `preprocess_folora` made for this model.
        settings: those of `DriftSettings`.

    Raises:
        UserError: a setting is wrong; when training begins: no LoRA adapter is trained, or the statistics are those of
            another model or of other modules.

    Source: the quantity that arXiv 2606.00132 bounds; it as a meter and as a loss is our choice.

    >>> FoloraCallback(None, penalty=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: folora: penalty: Input should be greater than or equal to 0 (got -1)
    """

    name: ClassVar[str] = "folora"
    Settings: ClassVar[type[InterventionSettings]] = DriftSettings

    def __init__(self, stats: FoloraStats, **settings: Any) -> None:
        super().__init__(**settings)
        self.stats = stats
        self.drifts: dict[str, float] = {}
        self._meter: Meter | None = None
        self._before: dict[str, Step] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the modules, and where they began."""
        super().on_train_begin(args, state, control, **kwargs)
        factors = trained_factors(kwargs["model"], self.parameters, self.name)
        start = StartParameters.of(kwargs["model"], args, state, self.name).values
        self._meter = Meter(self.stats, factors, start, keep=self.weight > 0)
        self._warn_of_other_rate(args.learning_rate, kwargs.get("optimizer"))

    def gradients(self, parameters: Mapping[str, Parameter]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of tr(dW Cp dW') over the modules, and its gradients."""
        return self._ready.penalty(parameters)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the penalty's gradient; remember A where the step will be measured."""
        super().on_pre_optimizer_step(args, state, control, **kwargs)
        if not self._due(state, state.global_step + 1):
            return
        own = self.stats.config
        for name, group in self._trained_by(kwargs.get("optimizer")):
            gate = group.get("lam", own.lam), group.get("s_min", own.s_min)
            self._before[name] = Step(self.parameters[name].detach().clone(), float(group["lr"]), *gate)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure and log; end a training that has drifted too far."""
        control = super().on_step_end(args, state, control, **kwargs)
        if not self._due(state, state.global_step):
            return control
        values = self._measured(kwargs["model"])
        worst = max(self.drifts, key=lambda module: self.drifts[module])
        most = self.settings.max_drift
        if most is not None and self.drifts[worst] > most:
            told = (state.global_step, worst, self.drifts[worst], most)
            _log.warning("folora: step %d: the drift of %s is %.3g, above max_drift=%g: training stops", *told)
            control.should_training_stop = True
        return publish(args, state, control, {f"limber/{self.name}{key}": value for key, value in values.items()})

    def detach(self) -> None:
        """Remove every hook, and let go of the moments."""
        super().detach()
        self._meter, self._before = None, {}

    @torch.no_grad()
    def _measured(self, model: nn.Module) -> dict[str, float]:
        """The drifts, and what the step did to A; of a step with a learning rate of 0 nothing is said."""
        steps = {
            name: replace(before, moved=_wide(self.parameters[name]) - _wide(before.moved))
            for name, before in self._before.items()
            if before.lr
        }
        self._before = {}
        self.drifts, shares = self._ready.read(model, self.parameters, steps)
        values = {"_drift": fmean(self.drifts.values()), "_drift_max": max(self.drifts.values())}
        if not steps:
            return values
        squares = sum(float((step.moved / step.lr).double().square().sum()) for step in steps.values())
        entries = sum(step.moved.numel() for step in steps.values())
        return values | {"_step": math.sqrt(squares / entries), "_floor": fmean(shares)}

    def _warn_of_other_rate(self, said: float, optimizer: Any) -> None:
        """The schedule takes its peak from the optimizer, whatever the trainer's arguments say."""
        peaks = {float(group.get("initial_lr", group["lr"])) for _, group in self._trained_by(optimizer)}
        if other := [peak for peak in sorted(peaks) if not math.isclose(peak, said)]:
            _log.warning(
                "folora: the optimizer's learning rate is %g and the trainer's learning_rate %g: the schedule scales "
                "the optimizer's; give both the same",
                *(other[0], said),
            )

    def _trained_by(self, optimizer: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each covered A's name, and the optimizer's group that trains it."""
        groups = getattr(optimizer, "param_groups", [])
        by_parameter = {id(parameter): group for group in groups for parameter in group["params"]}
        for name in (each.A for like in self._ready.groups for each in like):
            if (group := by_parameter.get(id(self.parameters[name]))) is not None:
                yield name, group

    def _due(self, state: Any, step: int) -> bool:
        return bool(step % self.settings.every == 0 or step == state.max_steps)

    @property
    def _ready(self) -> Meter:
        if self._meter is None:
            raise RuntimeError("FoloraCallback: training has not begun")
        return self._meter


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
