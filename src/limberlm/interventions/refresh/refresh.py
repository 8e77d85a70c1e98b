"""`FeatureRefresh`: at a stage's end, or every so many steps, its weights are moved back towards where it began."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.refresh.layers import refuse_unread, refuse_variants
from limberlm.interventions.refresh.phase import Phase, Texts, run_phase
from limberlm.interventions.refresh.shrink import shrink
from limberlm.interventions.refresh.spectral import damped_intruders, repair, restored_directions
from limberlm.interventions.seats.activations import chosen_sites
from limberlm.interventions.seats.callback import Intervention
from limberlm.interventions.seats.refusals import refuse_deepspeed
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import draw
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.model.sites import locate
from limberlm.observe.training.trainer import publish

Kind = Literal["anchor", "shrink", "spectral"]

_log = logging.getLogger(__name__)
_OF_KIND: dict[str, set[str]] = {
    "anchor": {"steps", "share", "beta", "learning_rate", "rows", "length", "sites"},
    "shrink": {"rho", "noise"},
    "spectral": {"repair", "top", "threshold", "kappa", "directions", "layers"},
}


class RefreshSettings(InterventionSettings):
    """Settings of a refresh; each kind has its own beside `kind` and `when`. Defaults without a source are our choice.

    The reference is always the stage's start.
    """

    kind: Kind = Field("anchor", description="a phase on generic text, a smaller update, or repaired directions")
    when: str = Field("end", pattern=r"^(end|every:[1-9]\d*)$", description="`end`, or `every:M` optimiser steps")

    steps: int | None = Field(None, ge=0, description="anchor: inner steps of each refresh, in place of a share")
    share: float = Field(0.02, ge=0, le=1, description="anchor: inner steps over those of the stage")
    beta: float = Field(0.1, ge=0, description="anchor: weight of the distance beside the cross-entropy")
    learning_rate: float | None = Field(None, gt=0, description="anchor: of the phase; by default the trainer's")
    rows: int = Field(8, ge=1, description="anchor: texts in a batch")
    length: int = Field(128, ge=2, description="anchor: the most tokens read of a text")
    sites: Literal["band"] | tuple[str, ...] = Field("band", description="anchor: `band`, or block.i and final_norm")

    rho: float = Field(0.1, ge=0, le=1, description="shrink: the share of the update that is taken back")
    noise: float = Field(0.0, ge=0, description="shrink: noise added, relative to the update's own size")

    repair: Literal["intruders", "directions"] = Field("intruders", description="spectral: what is repaired")
    top: int = Field(10, ge=1, description="spectral, intruders: leading directions that are looked at")
    threshold: float = Field(0.5, gt=0, le=1, description="spectral, intruders: |cosine| below which one intrudes")
    kappa: float = Field(0.7, ge=0, le=1, description="spectral, intruders: what its singular value is multiplied by")
    directions: float = Field(0.2, ge=0, le=1, description="spectral, directions: leading share that is restored")
    layers: float = Field(1.0, gt=0, le=1, description="spectral: share of the blocks, from the first on")

    @model_validator(mode="after")
    def _own(self) -> RefreshSettings:
        # a study writes settings down whole: what has its default's value is as if it were not given
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        for kind, names in _OF_KIND.items():
            for name in sorted(given & names if kind != self.kind else ()):
                raise ValueError(f'{name}: belongs to kind "{kind}", and kind is "{self.kind}"; leave one out')
        if {"steps", "share"} <= given:
            raise ValueError(f"steps: {self.steps} and share: {self.share:g}: give one of them")
        if not self.sites:
            raise ValueError("sites: empty; name at least one")
        return self

    @property
    def every(self) -> int | None:
        """Optimiser steps between refreshes; None for one at the end."""
        return None if self.when == "end" else int(self.when.removeprefix("every:"))

    @property
    def acts(self) -> bool:
        """Whether it could change anything."""
        if self.kind == "shrink":
            return self.rho > 0 or self.noise > 0
        if self.kind == "spectral":
            return self.kappa < 1 if self.repair == "intruders" else self.directions > 0
        return self.share > 0 if self.steps is None else self.steps > 0


class FeatureRefresh(Intervention):
    """Moves a stage's weights back towards its start; three variants, of which none is known to be any paper's.

    - `kind="anchor"`: a short phase on generic text, cross-entropy + beta x distance of the features (`phase`);
    - `kind="shrink"`: the update times 1 - rho, or shrink-and-perturb (`shrink`). At the end it is adapter rescaling,
      which any other kind must beat at equal target score;
    - `kind="spectral"`: intruding singular directions damped, or the leading ones restored (`spectral`).

    With `when="end"` it comes after the last step, when training ends: `save_model` afterwards sees it, checkpoints
    do not. With `when="every:M"` it comes after every M-th step, before that step is logged and saved, so that a run
    which resumes does not repeat it. The optimiser's moments are left alone.

    Logged after each refresh as `limber/refresh/...`, by kind: `loss`, `drift` and `tokens`; `norm` and `left_out`;
    `directions`, `moved` and `left_out`. What happens at the end is in `trainer.state.log_history` only: trackers are
    closed then.

    Args:
        kind: which variant.
        when: `end`, or `every:M`.
        texts: generic text for `kind="anchor"`: strings, or rows in any of TRL's shapes.
        settings: those of the kind (`RefreshSettings`).

    Raises:
        UserError: a setting is unknown, out of range or belongs to another kind; texts are missing.

    >>> FeatureRefresh("shrink", rho=1.5)
    Traceback (most recent call last):
    limberlm.errors.UserError: refresh: rho: Input should be less than or equal to 1 (got 1.5)

    """

    name: ClassVar[str] = "refresh"
    Settings: ClassVar[type[InterventionSettings]] = RefreshSettings

    def __init__(
        self, kind: Kind = "anchor", when: str = "end", *, texts: Sequence[Any] | None = None, **settings: Any
    ) -> None:
        super().__init__(kind=kind, when=when, **settings)
        if self.settings.kind == "anchor" and self.settings.acts and not texts:
            raise UserError('refresh: texts: missing; kind="anchor" reads generic text, so give a list of it')
        self.texts = texts
        self._start = StartParameters({})
        self._encoded: Texts | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the start, and refuse what could not be refreshed later."""
        super().on_train_begin(args, state, control, **kwargs)
        if not self.settings.acts:
            return
        refuse_deepspeed(args, self.name, "holds a copy of the weights that would undo the refresh")
        model = kwargs["model"]
        if self.settings.kind == "anchor":
            self._sites = chosen_sites(self.settings.sites, locate(model), self.name)
            self._encoded = self._read(kwargs.get("processing_class"))
        else:
            refuse_variants(model, self.name)
        if self.settings.kind == "spectral":
            locate(model)  # its blocks are wanted
            refuse_unread(model, self.name)
        self._start = StartParameters.of(model, args, state, self.name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Refresh, if it is one of the steps."""
        every = self.settings.every
        if every is None or state.global_step % every or not self.settings.acts:
            return control
        return publish(args, state, control, self._refresh(args, state, kwargs["model"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refresh, if the end is when."""
        super().on_train_end(args, state, control, **kwargs)
        if self.settings.every is None and self.settings.acts:
            values = self._refresh(args, state, kwargs["model"])
            state.log_history.append({**values, "epoch": state.epoch, "step": state.global_step})
            _log.info("refresh: %s after step %d: %s", self.settings.kind, state.global_step, values)
        self._start = StartParameters({})

    def _read(self, reader: Any) -> Texts:
        if reader is None:
            raise UserError("refresh: processing_class: the trainer has none; give it the tokenizer")
        tokenizer = getattr(reader, "tokenizer", reader)
        return Texts.of(list(self.texts or ()), tokenizer, self.settings.rows, self.settings.length)

    def _refresh(self, args: Any, state: Any, model: torch.nn.Module) -> dict[str, float]:
        try:
            values = self._act(args, state, model)
        except ValueError as error:  # the algebra's, of weights that are not finite
            raise NodeFailed(
                f"{self.name}: {error} after step {state.global_step}: lower the learning rate or check the data"
            ) from None
        return {f"limber/{self.name}/{key}": value for key, value in values.items()}

    def _act(self, args: Any, state: Any, model: torch.nn.Module) -> dict[str, float]:
        chosen: RefreshSettings = self.settings
        seed = draw(args.seed, state.global_step, 0, self.name)
        if chosen.kind == "shrink":
            return shrink(model, self._start.values, chosen.rho, chosen.noise, seed)
        if chosen.kind == "spectral":
            return repair(model, self._start.values, chosen.layers, _repaired(chosen))
        assert self._encoded is not None  # read when training began
        return run_phase(model, self._start, self._encoded, self._phase(args, state), seed)

    def _phase(self, args: Any, state: Any) -> Phase:
        chosen: RefreshSettings = self.settings
        steps = chosen.steps
        if steps is None:
            steps = max(1, round(chosen.share * (chosen.every or state.max_steps)))
        rate = chosen.learning_rate or float(args.learning_rate)
        return Phase(steps, rate, chosen.beta, self._sites, float(args.max_grad_norm) or float("inf"))


def _repaired(settings: RefreshSettings) -> Any:
    if settings.repair == "directions":
        return partial(restored_directions, share=settings.directions)
    return partial(damped_intruders, k=settings.top, threshold=settings.threshold, kappa=settings.kappa)
