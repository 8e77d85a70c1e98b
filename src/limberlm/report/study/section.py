"""What the page shows of one run: its words, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from limberlm.report import words
from limberlm.report.drawing import Figure
from limberlm.report.page import Json
from limberlm.report.study import calibration, figures, headline, plasticity, refusals, scores, updates, verdict
from limberlm.report.study import yardsticks as yard
from limberlm.report.study.data import ReportData, Run
from limberlm.report.study.figures import in_domain_first
from limberlm.report.study.outcomes import Outcomes


@dataclass
class Figures:
    """The figures of a page by key; `aliases` has the keys that show another key's figure."""

    figures: dict[str, Figure] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    _keys: dict[Any, str] = field(default_factory=dict)

    def put(self, key: str, figure: Figure) -> None:
        """Keep a figure."""
        self.figures[key] = figure

    def share(self, key: str, shows: Any, figure: Callable[[], Figure]) -> None:
        """Keep a figure of what may have been drawn before: then it is the same one."""
        if shows in self._keys:
            self.aliases[key] = self._keys[shows]
        else:
            self._keys[shows] = key
            self.put(key, figure())


@dataclass(frozen=True)
class Sections:
    """Makes the section of each run of a study."""

    data: ReportData
    runs: Sequence[Run]
    drawn: Figures

    def of(self, run: Run, key: str) -> Json:
        """What the template shows of a run; its figures have keys that start with `key`."""
        data = self.data
        outcomes = data.rows("outcomes", run.key)
        findings, rows = verdict.findings(run, data.changes), headline.headline_rows(data, run)
        unmeasured = verdict.unmeasured(run, data.changes)
        return {
            "key": key,
            "arm": run.arm,
            "label": run.label,
            "stages": [(stage.label, "") for stage in run.stages],
            "unfinished": "" if run.is_finished(data) else self._unfinished(run),
            "summary": verdict.summary(findings) if findings else "",
            "findings": [each for each in findings if not unmeasured or data.changes.get(each.node, "base")],
            "unmeasured": unmeasured,
            "outcomes": headline.outcomes_sentence(rows),
            "seeds": verdict.seeds_sentence(run, self.runs, data.changes),
            "rows": rows,
            "has_geometry": len(data.rows("geometry", run.key)) > 0,
            "scores": scores.score_tables(data, run, self.runs),
            "plasticity": self._plasticity(run, outcomes, key),
            "plasticity_tables": self._plasticity_tables(run),
            "calibration": self._calibration(run, key),
            "refusals": self._refusals(run, outcomes, key),
            "yardsticks": self._yardsticks(run, key),
            "updates": self._updates(run, key),
            "training": self._training(run, key),
            **self._scores(run, outcomes, key),
        }

    def _unfinished(self, run: Run) -> str:
        planned = self.data.lengths[run.key] - 1
        return f"This chain is not finished: {len(run.stages) - 1} of {planned} stages are there."

    def _scores(self, run: Run, outcomes: pd.DataFrame, key: str) -> Json:
        heatmap = figures.accuracy_heatmap(outcomes, run.stages, self.data.targets)
        loss = figures.loss_by_stage(outcomes, run.stages)
        for name, figure in (("accuracy", heatmap), ("loss", loss)):
            if figure is not None:
                self.drawn.put(f"{key}|{name}", figure)
        return {
            "has_accuracy": heatmap is not None,
            "has_loss": loss is not None,
            "right": _by_stage(run, outcomes, ("accuracy", "pair_accuracy"), words.percent),
            "losses": _by_stage(run, outcomes, ("loss",), words.number),
        }

    def _plasticity(self, run: Run, outcomes: pd.DataFrame, key: str) -> list[tuple[str, str]]:
        found = []
        for i, panel in enumerate(plasticity.panels(outcomes)):
            found.append((f"{key}|plasticity|{i}", panel.title))
            for rate in self.data.rates or (None,):
                frame = plasticity.at_rate(outcomes, rate)
                figure = figures.plasticity_curve(frame, run.stages, panel.task, panel.outcome)
                self.drawn.put(f"{key}|plasticity|{i}|{plasticity.rate_name(rate)}", figure)
        return found

    def _plasticity_tables(self, run: Run) -> list[Json]:
        tables = plasticity.plasticity_tables(self.data, run)
        return [{"rate": plasticity.rate_name(t.rate), "columns": t.columns, "rows": t.rows} for t in tables if t.rows]

    def _calibration(self, run: Run, key: str) -> list[Json]:
        found = []
        for panel in calibration.panels(self.data, run):
            name = f"{key}|reliability|{panel.source}|{panel.task}"
            found.append({"figure": name, "source": panel.source, "task": panel.task, "rows": panel.rows})
        return found

    def _refusals(self, run: Run, outcomes: pd.DataFrame, key: str) -> list[refusals.Line]:
        lines = refusals.refusal_lines(run, outcomes)
        if lines:
            self.drawn.put(f"{key}|refusals", refusals.refusal_figure(lines, run.stages))
        return lines

    def _yardsticks(self, run: Run, key: str) -> Json:
        found = yard.yardsticks(self.data, run)
        metrics = list(dict.fromkeys(each.metric for each in found))
        for metric in metrics:
            figure = figures.changes_by_stage(found, metric)
            self.drawn.put(f"{key}|yardstick|{metric}", figure)
        return {
            "figures": [(f"{key}|yardstick|{metric}", words.metric_title(metric)) for metric in metrics],
            "sentences": yard.sentences(found),
            "rows": [(each.stage, words.metric_title(each.metric), each.cells) for each in found],
            "zero": yard.zero_sentences(self.data, run),
            "ends": yard.end_table(self.data, run),
        }

    def _updates(self, run: Run, key: str) -> list[updates.Overlap]:
        found = updates.overlaps(run, self.data.rows("updates", run.key))
        if found:
            self.drawn.put(f"{key}|updates", updates.overlap_heatmap(found))
        return found

    def _training(self, run: Run, key: str) -> list[tuple[str, str]]:
        training = self.data.rows("training", run.key)
        found = []
        for position, stage in enumerate(run.stages):
            own = training[training["stage_index"] == stage.index]
            if len(own):
                name = f"{key}|training|{position}"
                found.append((name, stage.label))
                self.drawn.share(name, (stage.node, position), partial(figures.training_loss, own, position))
        return found


def _by_stage(run: Run, outcomes: pd.DataFrame, names: tuple[str, ...], show: Callable[[float], str]) -> list[Json]:
    """A row per task and split, a cell per stage: what the figure above it shows."""
    rows = in_domain_first(outcomes[outcomes["outcome"].isin(names)])
    values = Outcomes(rows)
    found = []
    for outcome, task, split in rows[["outcome", "task", "split"]].drop_duplicates().itertuples(index=False):
        cells = [values.cell(stage, outcome, task, split, show) for stage in run.stages]
        kind = ", pairs" if outcome == "pair_accuracy" else ""
        found.append({"task": f"{task}{kind}", "split": str(split).replace("_", " "), "cells": cells})
    return found
