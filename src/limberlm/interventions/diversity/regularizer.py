"""`DiversityRegularizer`: keeps a model's states from growing alike while it is trained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from limberlm.interventions.diversity.formulas import (
    cosine,
    cosine_squared,
    logdet,
    participation_ratio,
    shortfall,
    unbiased,
    vcreg,
)
from limberlm.interventions.diversity.reference import FIRST, Given, Live, Start
from limberlm.interventions.seats.activations import ActivationPenalty, ActivationSettings
from limberlm.interventions.seats.tokens import Batch
from limberlm.interventions.settings import InterventionSettings

_log = logging.getLogger(__name__)

Kind = Literal["anchored_participation_ratio", "participation_ratio", "cosine", "cosine_squared", "vcreg", "logdet"]
ANCHORED: Kind = "anchored_participation_ratio"
Ratio = Annotated[float, Field(ge=1)]
ONLY = {
    "reference": ANCHORED,
    "gamma": "vcreg",
    "variance": "vcreg",
    "covariance": "vcreg",
    "epsilon": "logdet",
}
"""Settings that one kind alone has."""


class DiversitySettings(ActivationSettings):
    """Settings of `DiversityRegularizer`."""

    kind: Kind = Field(ANCHORED, description="which penalty; see the page of this intervention")
    reference: Literal["start", "live"] | Ratio | dict[str, Ratio] = Field(
        "start",
        description="participation ratio to stay above: of the first 8 micro-batches, of the stage's start on each "
        "micro-batch (one more forward), or a number, for all sites or by site",
    )
    gamma: float = Field(
        1.0, gt=0, description="vcreg: standard deviation that each axis shall have, of states of RMS 1"
    )
    variance: float = Field(1.0, ge=0, description="vcreg: weight of the variance term")
    covariance: float = Field(0.04, ge=0, description="vcreg: weight of the covariance term")
    epsilon: float = Field(1e-3, ge=1e-3, description="logdet: what is added to each eigenvalue")

    @field_validator("reference", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in ("start", "live"):
            raise ValueError(f'"{given}" is none of start, live; or give a number, or one for each site')
        return given

    @model_validator(mode="after")
    def _fits_kind(self) -> DiversitySettings:
        for name, kind in ONLY.items():
            # as a study file that was written out in full says everything
            if kind != self.kind and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: only {kind} has one, not {self.kind}; leave it out")
        return self


class DiversityRegularizer(ActivationPenalty):
    """Keeps the states of a micro-batch diverse while any trainer of TRL trains.

    `callbacks=[DiversityRegularizer(weight=0.05)]` adds weight x R to the loss of each micro-batch, R a mean over the
    sites of the depth band; by default R is the share by which the states' participation ratio has fallen below that of
    the run's own first micro-batches, so that nothing is asked of a model that does not collapse. The gradient enters
    the backward pass at the blocks' outputs in closed form; forward passes, the logged loss and the saved model are
    the trainer's own.

    In the log, means since the last log: `limber/diversity` (R), `limber/diversity_share` (norm of what is added over
    that of the task's gradient, at a site), `limber/diversity_participation_ratio` (without sampling bias; the two
    kinds that use it), `limber/diversity_skipped` (share of micro-batches with fewer than 8 tokens to read).

    Args:
        **settings: the fields of `DiversitySettings`.

    Raises:
        UserError: a setting is unknown, out of range or at odds with another; when training begins, a site that the
            model lacks, a reference that is missing, DeepSpeed, sharded parameters.

    >>> DiversityRegularizer(weight=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: diversity: weight: Input should be greater than or equal to 0 (got -1)

    """

    name = "diversity"
    Settings: ClassVar[type[InterventionSettings]] = DiversitySettings
    default_weight = 0.05

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        given = self.settings
        self._formulas: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
            "cosine": cosine,
            "cosine_squared": cosine_squared,
            "vcreg": partial(vcreg, gamma=given.gamma, variance=given.variance, covariance=given.covariance),
            "logdet": partial(logdet, epsilon=given.epsilon),
        }
        self._reference: Start | Live | Given | None = None

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Find the reference, or where it will come from."""
        wanted = self.settings.reference
        if self.settings.kind != ANCHORED:
            return
        if wanted == "live":
            self._reference = Live(model, args, state)
        elif wanted == "start":
            self._reference = self._start(args, state)
        else:
            self._reference = Given(wanted, self.sites)

    def prepare(self, batch: Batch, model: nn.Module) -> Batch:
        """Read the stage's start on the micro-batch, if that is the reference."""
        if isinstance(self._reference, Live):
            self._reference.read(batch, self.sites)
        return batch

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R [] and dR/dstates [n, d]; both are 0 while the reference is still being taken."""
        kind = self.settings.kind
        if kind in self._formulas:
            return self._formulas[kind](states)
        raw, gradient = participation_ratio(states)
        inverse = unbiased(raw, *states.shape)
        self.note("_participation_ratio", 1 / inverse)
        reference = self._reference
        if kind != ANCHORED or reference is None:
            return raw, gradient
        if isinstance(reference, Start) and not reference.ready:
            reference.see(site, raw, *states.shape)
            return raw * 0, gradient.zero_()  # not plain zeros: what is no number must show
        value, slope = shortfall(inverse, reference.of(site))
        return value, gradient.mul_(slope)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Keep what the step has shown of the start, before the trainer saves."""
        if isinstance(self._reference, Start) and not self._reference.ready:
            self._reference.end_step(state)
        return super().on_step_end(args, state, control, **kwargs)

    def detach(self) -> None:
        """Remove every hook from the model, and forget the reference."""
        super().detach()
        self._reference = None

    def _start(self, args: Any, state: Any) -> Start:
        micro_batches = state.max_steps * args.gradient_accumulation_steps * args.world_size
        if micro_batches <= FIRST:
            _log.warning(
                "diversity: the first %d micro-batches give the reference, and this run has %d: nothing is penalised",
                FIRST,
                micro_batches,
            )
        read = {"tokens": self.settings.tokens, "per_sequence": self.settings.per_sequence}
        start = Start(Path(args.output_dir), self.sites, read)
        if state.global_step:
            start.resume(state)
        return start
