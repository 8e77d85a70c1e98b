"""`GeometryGuard`: holds a stage inside a margin of the geometry it started with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, replace
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from limberlm.interventions.guard.decision import Act, Seen, asked, in_a_row, next_weight
from limberlm.interventions.guard.driven import driven
from limberlm.interventions.guard.margin import State
from limberlm.interventions.guard.record import FILE, Record, same_when_read
from limberlm.interventions.guard.settings import GuardSettings
from limberlm.interventions.guard.telling import sentence
from limberlm.interventions.guard.watch import LOGGED, NAME, Watch
from limberlm.interventions.seats.activations import ActivationPenalty
from limberlm.interventions.seats.callback import Intervention
from limberlm.interventions.seats.refusals import refuse_deepspeed
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.observe.training.callback import GeometryCallback
from limberlm.observe.training.trainer import on_main, publish

_log = logging.getLogger(__name__)

BATCH = 4
"""Sequences side by side: the jackknife's blocks of a small probe hold few, and more would be padding."""


class GeometryGuard(Intervention):
    """Measures a probe while a stage trains, and acts when its geometry leaves a margin of the start's.

    For any transformers or TRL trainer: `callbacks=[GeometryGuard("texts.jsonl", margin=0.05)]`. Every so many steps
    it takes the paired 95 % interval of the metric's change since step 0, which decides (`Margin.state`): inside,
    outside, or cannot tell at this probe size. Outside it raises the weight of a regularizer that it holds itself,
    well inside it lowers it again; or it stops the stage, or only warns. While nothing leaves the margin and
    `start_weight` is 0, the stage ends with the same bits as without the guard.

    `limber/guard/...` in the trainer's log and trackers has the metric, its change with its interval, and the weight.
    `output_dir/limber-guard.json` holds what was seen and done, from which a resumed run goes on as the unbroken one.

    Args:
        probe: texts to measure on, as in `limberlm.measure`: a file, rows, or a `ProbeSet`.
        regularizer: one whose weight the guard sets, in place of what `hold_by` and `hold_with` say.
        settings: see `GuardSettings`.

    Attributes:
        table: what it saw: one row a measurement, with the state and the weight from then on.

    Raises:
        UserError: a setting is wrong, or the metric cannot be held.

    >>> GeometryGuard([{"text": "The tide turned."}], margin=0)
    Traceback (most recent call last):
    limberlm.errors.UserError: guard: margin: ...
    """

    name: ClassVar[str] = NAME
    Settings: ClassVar[type[InterventionSettings]] = GuardSettings

    def __init__(
        self,
        probe: str | Path | Iterable[Any] | ProbeSet,
        *,
        regularizer: ActivationPenalty | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        told: GuardSettings = self.settings
        self.margin = told.judge()
        self.watch = Watch.at(told.metric, told.site)
        self.geometry = GeometryCallback(
            probe,
            told.every,
            metrics=[told.metric],
            sites=[told.site],
            max_tokens=told.max_tokens,
            batch_size=BATCH,
            keep=told.keep,
            name=NAME,
        )
        self.geometry.logged = self.watch
        self.regularizer: ActivationPenalty | None = None
        if told.on_breach == "raise_weight":
            self.regularizer = driven(regularizer, told)
        self.record = Record({}, nan)
        self._pushing = False

    @property
    def table(self) -> pd.DataFrame:
        """Columns step, change, low, high, detectable, state, weight; one row a measurement."""
        names = [field.name for field in fields(Seen)]
        return pd.DataFrame([asdict(one) for one in self.record.seen], columns=names)

    @property
    def weight(self) -> float:
        """The regularizer's weight after the last measurement."""
        return self.record.seen[-1].weight if self.record.seen else float(self.settings.start_weight)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start, or read what a run that resumes saw so far."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.regularizer is not None:
            refuse_deepspeed(args, self.name)
        self.geometry.on_train_begin(args, state, control, **kwargs)
        self.record = on_main(state, lambda: self._begun(args, state))
        if self.regularizer is not None:
            self.regularizer.weight = self.weight
            self.regularizer.on_train_begin(args, state, control, **kwargs)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Log what was measured when training began."""
        return self.geometry.on_epoch_begin(args, state, control, **kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the regularizer act, if it has a weight."""
        self._pushing = self.regularizer is not None and self.regularizer.weight > 0
        self._regularize("on_step_begin", args, state, control, **kwargs)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """For the regularizer."""
        self._regularize("on_substep_end", args, state, control, **kwargs)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """For the regularizer."""
        self._regularize("on_pre_optimizer_step", args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure, judge and act, every so many steps and after the last one."""
        self._regularize("on_step_end", args, state, control, **kwargs)
        self.geometry.latest = {}
        control = self.geometry.on_step_end(args, state, control, **kwargs)
        due = state.global_step % self.settings.every == 0
        return self._judged(args, state, control, due) if due or self.geometry.latest else control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        """Measure after the last step, if something stopped training since."""
        if logs and "train_runtime" in logs:
            self.geometry.latest = {}
            control = self.geometry.on_log(args, state, control, logs=logs, **kwargs)
            return self._judged(args, state, control, due=False) if self.geometry.latest else control
        return control

    def detach(self) -> None:
        """Remove every hook from the model, the regularizer's too."""
        super().detach()
        if self.regularizer is not None:
            self.regularizer.detach()

    def _regularize(self, event: str, *given: Any, **kwargs: Any) -> None:
        if self._pushing:
            getattr(self.regularizer, event)(*given, **kwargs)

    def _regularizer_settings(self) -> dict[str, Any]:
        one = self.regularizer
        return {} if one is None else {"regularizer": {"name": one.name, **one.settings.model_dump(mode="json")}}

    def _begun(self, args: Any, state: Any) -> Record:
        path, settings = _path(args), same_when_read({**self.settings.model_dump(), **self._regularizer_settings()})
        if state.global_step:
            return Record.resumed(path, settings, state.global_step, self.settings.every)
        start = self.geometry.latest[self.watch.shown]
        self.margin.bound(start)  # refused now if there is none
        record = Record(settings, start)
        record.write(path)
        return record

    def _judged(self, args: Any, state: Any, control: Any, due: bool) -> Any:
        """Judge what was just measured, and act where it was due; the same on every process."""
        seen = self._seen(state.global_step)
        states = [*(one.state for one in self.record.seen), seen.state]
        if due and self.regularizer is not None:
            asks = [self._asks(one) for one in (*self.record.seen, seen)]
            weight = next_weight(asks, self.weight, self.settings.ladder, self.settings.patience)
            seen, self.regularizer.weight = replace(seen, weight=weight), weight
        spent = seen.state == "outside" and seen.weight == self.weight == self.settings.largest_weight
        self.record = replace(self.record, seen=(*self.record.seen, seen))
        if state.is_world_process_zero:
            self.record.write(_path(args))
            self._say(states, spent)
        if self.settings.on_breach == "stop" and seen.state == "outside" and in_a_row(states) >= self.settings.patience:
            control.should_training_stop = True
        values = {f"{LOGGED}/outside": float(seen.state == "outside"), f"{LOGGED}/weight": seen.weight}
        return publish(args, state, control, values)

    def _seen(self, step: int) -> Seen:
        """The last measurement; without numbers if it failed, of which the callback has told."""
        ends = ("change", "change_low", "change_high", "change_detectable")
        change, low, high, detectable = (self.geometry.latest.get(f"{self.watch.shown}_{end}", nan) for end in ends)
        return Seen(step, change, low, high, detectable, self.margin.state(low, high, self.record.start), self.weight)

    def _asks(self, seen: Seen) -> Act:
        narrower = replace(self.margin, size=self.margin.size * self.settings.release)
        return asked(seen.state, narrower.state(seen.low, seen.high, self.record.start) == "inside")

    def _say(self, states: Sequence[State], spent: bool) -> None:
        """One line when the state has become another, and one where there is nothing left to raise."""
        seen, patience = self.record.seen[-1], self.settings.patience
        if in_a_row(states) == patience and (seen.state != "inside" or len(states) > patience):
            weight = "" if self.regularizer is None else f"; weight {seen.weight:g}"
            _log.warning("%s%s", sentence(seen, self.settings.metric, self.margin, self.record.start), weight)
        if spent:
            _log.warning("guard: step %d: largest_weight=%g does not hold the stage", seen.step, seen.weight)


def _path(args: Any) -> Path:
    return Path(args.output_dir) / FILE
