"""`GeometryCallback`: geometry in a trainer's logs, measured on a probe of its own while the run goes on untouched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.training_args import TrainingArguments

from limberlm.errors import UserError
from limberlm.geometry.catalog import HEADLINE
from limberlm.observe.measurement import measure
from limberlm.observe.names import BAND
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.observe.table.geometry import Geometry
from limberlm.observe.training.logged import Logged
from limberlm.observe.training.trainer import calling_handler, on_main, publish, refuse_sharded

_log = logging.getLogger(__name__)


class GeometryCallback(TrainerCallback):
    """Measures the model every `every` optimiser steps, and when training begins and ends; logs a few numbers.

    For any transformers or TRL trainer: `callbacks=[GeometryCallback("texts.jsonl", every=50)]`. The numbers reach the
    trackers of `report_to` and `trainer_state.json` beside the loss:

    - `geometry/effective_rank`: the value over the depth band, without its sampling bias where the catalog corrects it;
    - `geometry/effective_rank_change`, `..._change_low`, `..._change_high`: the change since step 0 with its 95 %
      interval, paired over the same texts. As in `compare`: a ratio for metrics on the log scale (1 is no change), a
      difference for others (0 is no change).

    Other sites than the band are named too: `geometry/block.3/effective_rank`. What is undefined is not logged.

    The tables are saved in `output_dir/geometry/step-N.geometry`, for `limber compare`. Training that resumes
    compares with the `step-0.geometry` of its first run.

    The run is not changed, to the bit: weights, gradients, random states, modes and the trainer's own log stay what
    they would have been, and nothing is left on the model between measurements. A probe or model that cannot be
    measured is refused when training begins; what goes wrong later (states that are not finite, no memory, a full
    disk) is a warning and costs that measurement only. With several processes the main one measures and the others
    wait; parameters that are sharded (FSDP, DeepSpeed ZeRO-3, tensor parallelism) are refused.

    Args:
        probe: as in `measure`; tokenised with the trainer's `processing_class` unless it is a ProbeSet.
        every: optimiser steps between measurements.
        metrics: names from the catalog.
        sites: `band`, `embed`, `final_norm` or `block.i`; a metric that has one site only is logged there.
        layers: the blocks to read; by default those that `sites` need.
        max_tokens: as in `measure`; None reads the whole probe.
        max_length: as in `measure`.
        batch_size: as in `measure`.
        memory: as in `measure`, for the measurement of step 0; the others take no more.
        keep: save every measurement, not only that of step 0.
        name: the folder, and what the names in the log begin with; a second callback needs its own.

    Attributes:
        latest: the numbers of the last measurement by their names in the log, on every process; empty before the first.

    Raises:
        UserError: a setting is wrong, or there is no such file.

    >>> GeometryCallback([{"text": "The tide turned."}], every=0)
    Traceback (most recent call last):
    limberlm.errors.UserError: every=0: must be at least 1
    """

    def __init__(
        self,
        probe: str | Path | Iterable[Any] | ProbeSet,
        every: int = 50,
        *,
        metrics: Sequence[str] = HEADLINE,
        sites: Sequence[str] = (BAND,),
        layers: Sequence[int] | None = None,
        max_tokens: int | None = 8192,
        max_length: int = 256,
        batch_size: int = 8,
        memory: str | int | None = None,
        keep: bool = True,
        name: str = "geometry",
    ) -> None:
        for setting, number in (("every", every), ("batch_size", batch_size)):
            if number < 1:
                raise UserError(f"{setting}={number}: must be at least 1")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f'name="{name}": it names a folder; use letters, digits, ".", "_" and "-"')
        if isinstance(probe, str | Path) and not Path(probe).is_file():
            raise UserError(f"{probe}: no such file; give a .jsonl, .parquet, .txt or .txt.xz file")
        # a generator would be empty at the second `train()`
        self.probe = list(probe) if isinstance(probe, Iterator) else probe
        self.every, self.keep, self.name = every, keep, name
        self.logged = Logged.of(metrics, sites, name)
        self.layers, self.max_tokens, self.max_length = layers, max_tokens, max_length
        self.batch_size, self.memory = batch_size, memory
        # of the run that is going on; everything that must outlive it is in its folder
        self.latest: dict[str, float] = {}
        self._ready: ProbeSet | None = None
        self._start: Geometry | None = None
        self._blocks: list[int] = []
        self._waiting: dict[str, float] = {}
        self._measured = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the probe and measure; refuse now what could not be measured later."""
        model = kwargs["model"]
        refuse_sharded(model, type(self).__name__)
        handler = calling_handler()
        if handler is None:
            _log.warning("%s: no CallbackHandler above this call: the trackers will not see the numbers", self.name)
        elif any(isinstance(c, GeometryCallback) and c.name == self.name and c is not self for c in handler.callbacks):
            raise UserError(f'name="{self.name}": two callbacks of this trainer have it; give one another name=')
        self._measured = state.global_step
        values = on_main(state, lambda: self._begin(args, state, model, kwargs.get("processing_class")))
        self.latest = values
        logged = any(entry.get("step") == state.global_step and values.keys() & entry for entry in state.log_history)
        # not every callback is ready for a log before `on_train_begin` has gone round
        self._waiting = {} if logged else values

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Log what was measured when training began."""
        values, self._waiting = self._waiting, {}
        return publish(args, state, control, values)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Measure and log, every so many steps and after the last one, before the trainer logs and saves."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.every and not last:
            return control
        return self._step(args, state, control, kwargs["model"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        """Measure after the last step if something stopped training since: at `on_train_end` trackers are closed."""
        if not logs or "train_runtime" not in logs or self._measured == state.global_step:
            return control
        return self._step(args, state, control, kwargs["model"])

    def _begin(self, args: TrainingArguments, state: TrainerState, model: Any, reader: Any) -> dict[str, float]:
        if reader is None and not isinstance(self.probe, ProbeSet):
            raise UserError("processing_class: the trainer has none; give it the tokenizer, or a ProbeSet as probe")
        tokenizer = getattr(reader, "tokenizer", reader)  # a processor of text and images has one
        self._ready = ProbeSet.build(self.probe, tokenizer, max_length=self.max_length, max_tokens=self.max_tokens)
        self._blocks = self.logged.blocks(model) if self.layers is None else list(self.layers)
        path = self._path(args, 0)
        if state.global_step and not path.is_dir():
            raise UserError(
                f"{path}: no such folder, and training resumes at step {state.global_step}; changes are counted from "
                "step 0, so bring the folder back, train from the start, or leave the callback out"
            )
        self._start = Geometry.load(path) if state.global_step else None
        now = self._measure(model)
        self.logged.check(now)
        if self._start is None:
            self._start = now
            now.save(path)
            return self.logged.values(now, None)
        try:
            values = self.logged.values(now, self._start)
        except UserError as error:
            raise UserError(f"{path}: cannot be what this run is compared with: {error}") from None
        self._save(now, args, state)
        return values

    def _step(self, args: Any, state: Any, control: Any, model: Any) -> Any:
        self._measured = state.global_step
        self.latest = on_main(state, lambda: self._again(args, state, model))
        return publish(args, state, control, self.latest)

    def _again(self, args: TrainingArguments, state: TrainerState, model: Any) -> dict[str, float]:
        try:
            now = self._measure(model)
            self._save(now, args, state)
            return self.logged.values(now, self._start)
        except (UserError, torch.OutOfMemoryError) as error:
            reason = str(error).partition("\n")[0]
            _log.warning("%s: step %d is not measured, training goes on: %s", self.name, state.global_step, reason)
            return {}

    def _measure(self, model: Any) -> Geometry:
        batch_size, memory = self.batch_size, self.memory
        if self._start is not None:
            # what is free while training goes on must not decide how the start was, and now is, measured
            batch_size, memory = self._start.manifest["batch_size"], sum(self._start.manifest["memory"].values())
        found = measure(
            model,
            cast(ProbeSet, self._ready),
            metrics=list(self.logged.metrics),
            layers=self._blocks,
            batch_size=batch_size,
            memory=memory,
        )
        # d x d at every site and step would soon outgrow the model's own checkpoints
        return replace(found, statistics={})

    def _path(self, args: TrainingArguments, step: int) -> Path:
        return Path(cast(str, args.output_dir)) / self.name / f"step-{step}.geometry"

    def _save(self, geometry: Geometry, args: TrainingArguments, state: TrainerState) -> None:
        if self.keep:
            geometry.save(self._path(args, state.global_step))
