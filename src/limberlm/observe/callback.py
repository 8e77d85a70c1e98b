"""`GeometryCallback`: geometry in a trainer's logs, measured on a probe of its own while the run goes on untouched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import isfinite, isnan
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.training_args import TrainingArguments

from limberlm.errors import UserError
from limberlm.geometry.catalog import CATALOG, HEADLINE, metric
from limberlm.observe.measurement import measure
from limberlm.observe.model.sites import BAND, EMBED, FINAL_NORM, band_sites, locate
from limberlm.observe.probe.probe_set import ProbeSet
from limberlm.observe.table.comparison import compare
from limberlm.observe.table.geometry import Geometry, headline_site
from limberlm.observe.trainer import calling_handler, on_main, publish, refuse_sharded

_SITE = re.compile(rf"{BAND}|{EMBED}|{FINAL_NORM}|block\.\d+")
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
            raise UserError(f"{probe}: no such file; give a .jsonl, .txt or .txt.xz file")
        # a generator would be empty at the second `train()`
        self.probe = list(probe) if isinstance(probe, Iterator) else probe
        self.every, self.keep, self.name = every, keep, name
        self.metrics, self.sites = _metrics(metrics), _sites(sites)
        self.layers, self.max_tokens, self.max_length = layers, max_tokens, max_length
        self.batch_size, self.memory = batch_size, memory
        # of the run that is going on; everything that must outlive it is in its folder
        self._ready: ProbeSet | None = None
        self._start: Geometry | None = None
        self._blocks: list[int] = []
        self._waiting: dict[str, float] = {}
        self._measured = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the probe and measure; refuse now what could not be measured later."""
        model = kwargs["model"]
        refuse_sharded(model)
        handler = calling_handler()
        if handler is None:
            _log.warning("%s: no CallbackHandler above this call: the trackers will not see the numbers", self.name)
        elif any(isinstance(c, GeometryCallback) and c.name == self.name and c is not self for c in handler.callbacks):
            raise UserError(f'name="{self.name}": two callbacks of this trainer have it; give one another name=')
        self._measured = state.global_step
        values = on_main(state, lambda: self._begin(args, state, model, kwargs.get("processing_class")))
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
        self._blocks = self._layers(model)
        path = self._path(args, 0)
        if state.global_step and not path.is_dir():
            raise UserError(
                f"{path}: no such folder, and training resumes at step {state.global_step}; changes are counted from "
                "step 0, so bring the folder back, train from the start, or leave the callback out"
            )
        self._start = Geometry.load(path) if state.global_step else None
        now = self._measure(model)
        _check(now, self._chosen(), self.name)
        if self._start is None:
            self._start = now
            now.save(path)
            return self._values(now, None)
        try:
            values = self._values(now, self._start)
        except UserError as error:
            raise UserError(f"{path}: cannot be what this run is compared with: {error}") from None
        self._save(now, args, state)
        return values

    def _step(self, args: Any, state: Any, control: Any, model: Any) -> Any:
        self._measured = state.global_step
        values = on_main(state, lambda: self._again(args, state, model))
        return publish(args, state, control, values)

    def _again(self, args: TrainingArguments, state: TrainerState, model: Any) -> dict[str, float]:
        try:
            now = self._measure(model)
            self._save(now, args, state)
            return self._values(now, self._start)
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
            metrics=list(self.metrics),
            layers=self._blocks,
            batch_size=batch_size,
            memory=memory,
        )
        # d x d at every site and step would soon outgrow the model's own checkpoints
        return replace(found, statistics={})

    def _layers(self, model: Any) -> list[int]:
        if self.layers is not None:
            return list(self.layers)
        names = band_sites(len(locate(model).blocks)) if BAND in self.sites else []
        names += [site for site in self.sites if site.startswith("block.")]
        return sorted({int(name.removeprefix("block.")) for name in names})

    def _path(self, args: TrainingArguments, step: int) -> Path:
        return Path(cast(str, args.output_dir)) / self.name / f"step-{step}.geometry"

    def _save(self, geometry: Geometry, args: TrainingArguments, state: TrainerState) -> None:
        if self.keep:
            geometry.save(self._path(args, state.global_step))

    def _chosen(self) -> dict[str, tuple[str, str]]:
        """Metric and site of everything that is logged, by its name there."""
        chosen = {}
        for name in self.metrics:
            home = headline_site(CATALOG[name])
            for site in self.sites if home == BAND else [home]:
                inner = "" if site in (BAND, home) else f"{site}/"
                chosen[f"{self.name}/{inner}{name}"] = name, site
        return chosen

    def _values(self, now: Geometry, start: Geometry | None) -> dict[str, float]:
        """What is logged: values, and changes since `start`, by name; NaN is left out."""
        changes = None if start is None else compare(start, now).table
        values: dict[str, float] = {}
        for name, (metric_name, site) in self._chosen().items():
            suffix = "_corrected" if CATALOG[metric_name].corrected else ""
            value = _row(now.table, metric_name + suffix, site)
            change = None if changes is None else _row(changes, metric_name, site)
            if value is not None:
                values[name] = float(value["value"])
            if change is not None:
                for column, ending in (("corrected", ""), ("low", "_low"), ("high", "_high")):
                    values[f"{name}_change{ending}"] = float(change[column])
        return {name: value for name, value in values.items() if isfinite(value)}


def _metrics(names: Sequence[str]) -> tuple[str, ...]:
    try:
        chosen = tuple(dict.fromkeys(metric(name).name for name in names))
    except KeyError as error:
        raise UserError(f"metrics: {error.args[0]}") from None
    if not chosen:
        raise UserError("metrics: empty; name at least one")
    return chosen


def _sites(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if not _SITE.fullmatch(name):
            raise UserError(f'sites: "{name}" is not one; use band, embed, final_norm or block.i')
    if not names:
        raise UserError("sites: empty; name at least one")
    return tuple(dict.fromkeys(names))


def _row(table: pd.DataFrame, name: str, site: str) -> pd.Series | None:
    """The row of a metric at a site, under the first of the metric's conventions that it has there."""
    rows = table[(table["metric"] == name) & (table["site"] == site) & (table["domain"] == "all")]
    for convention in metric(name).conventions:
        found = rows[rows["convention"] == convention]
        if len(found):
            return found.iloc[0]
    return None


def _check(geometry: Geometry, chosen: dict[str, tuple[str, str]], name: str) -> None:
    """One warning for each number that will not be in the log, or only without its interval.

    Raises:
        UserError: a number is not in the table, and the model is not the reason.
    """
    undefined = geometry.manifest["undefined"]
    for shown, (metric_name, site) in chosen.items():
        row, record = _row(geometry.table, metric_name, site), CATALOG[metric_name]
        if row is None:
            reason = undefined.get(site if site == record.sites else record.needs)
            if reason is None:
                raise UserError(
                    f"metrics: {metric_name} is not measured at {site}; choose another, or read more layers"
                )
            _log.warning("%s: %s is not logged: %s", name, shown, reason)
            continue
        reason = undefined.get(f"{site}/{row['convention']}/{metric_name}", "undefined")
        if isnan(row["value"]):
            _log.warning("%s: %s is not logged: %s", name, shown, reason)
        elif isnan(row["low"]) and record.has_interval:
            _log.warning("%s: %s has no interval: %s", name, shown, reason.removeprefix("no interval: "))
