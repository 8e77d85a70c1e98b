"""The headline table: one row per stage with its geometry, its change from base and its outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from limberlm.analysis.direction import RANK
from limberlm.observe.names import BAND
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, Show, mean_cell, row_cell
from limberlm.report.study.changes import change_cell
from limberlm.report.study.data import ReportData, Run, Stage

TARGET_SPLIT = "in_domain"
SHOWN = ("accuracy", "pair_accuracy", "loss", "retention", "retention_loss", "aulc", "loss_after")
Record = Mapping[Any, Any]


@dataclass(frozen=True)
class Row:
    """One stage in the headline table, a cell per column of `COLUMNS`."""

    stage: str
    cells: tuple[Cell, ...]


COLUMNS: tuple[tuple[str, str], ...] = (
    ("Effective rank", "bias-corrected"),
    ("Change from base", "effective rank"),
    ("Participation ratio", "debiased"),
    ("RankMe", "bias-corrected"),
    ("Anisotropy", "mean cosine"),
    ("Target accuracy", "the stage's own task"),
    ("Retention", "earlier tasks"),
    ("Plasticity: AULC", "nats per token"),
    ("Plasticity: loss after", "nats per token"),
)
CAPTION = (
    "Under each value its 95 % interval. Ranks and participation ratio count directions; they and "
    "anisotropy are means over the 50–85 % depth band, under rms (anisotropy: raw). Retention: accuracy "
    "on the tasks of earlier stages minus its value right after their stage, in percentage points. Tasks without "
    "right and wrong answers have their held-out loss instead, in nats. "
    "Plasticity: loss on a future task while a fresh adapter learns it, on average (AULC) and at the end; "
    "lower is better. A dash: not measured, or not defined at this stage."
)


def headline_rows(data: ReportData, run: Run) -> list[Row]:
    """The headline table of one run, stages in training order."""
    geometry, outcomes = (
        _band(data.rows("geometry", run.key)),
        _named(data.at_fixed_rate(data.rows("outcomes", run.key))),
    )
    return [
        Row(
            stage.label,
            (
                _geometry(geometry, stage, RANK, "rms"),
                change_cell(data.changes.get(stage.node, "base")),
                _geometry(geometry, stage, "participation_ratio_debiased", "rms"),
                _geometry(geometry, stage, "rankme", "rms"),
                _geometry(geometry, stage, "anisotropy", "raw"),
                _target(outcomes, stage, data.targets),
                _retention(outcomes, stage),
                _mean(outcomes, stage, "aulc"),
                _mean(outcomes, stage, "loss_after"),
            ),
        )
        for stage in run.stages
    ]


def outcomes_sentence(rows: list[Row]) -> str:
    """What the last stage of a run can still do, in words; empty if no outcome was measured."""
    retention, after, at_base = rows[-1].cells[6], rows[-1].cells[8], rows[0].cells[8]
    parts = []
    if not math.isnan(retention.value):
        side = "below" if retention.value < 0 else "above"
        size = retention.text.lstrip("+−")
        what = "held-out loss" if size.endswith("nats") else "accuracy"
        distance = f"{size} {side} its value" if retention.value else "what it was"
        parts.append(f"{what} on earlier tasks is {distance} right after their stages")
    if not math.isnan(after.value) and not math.isnan(at_base.value):
        parts.append(
            f"a future task learned from here ends at a loss of {after.text} nats per token, "
            f"against {at_base.text} from the base (lower is better)"
        )
    return f"At the end of the chain {' and '.join(parts)}." if parts else ""


def _band(geometry: pd.DataFrame) -> dict[Any, Record]:
    """The rows over the depth band by stage, metric and convention; found once, as a study has many runs."""
    rows = geometry.loc[geometry["site"] == BAND, ["stage_index", "metric", "convention", "value", "low", "high"]]
    return {(row["stage_index"], row["metric"], row["convention"]): row for row in reversed(rows.to_dict("records"))}


def _named(outcomes: pd.DataFrame) -> dict[Any, list[Record]]:
    """The rows of the outcomes that are shown, by stage and name."""
    columns = ["stage_index", "outcome", "task", "split", "value", "low", "high"]
    found: dict[Any, list[Record]] = {}
    for row in outcomes.loc[outcomes["outcome"].isin(SHOWN), columns].to_dict("records"):
        found.setdefault((row["stage_index"], row["outcome"]), []).append(row)
    return found


def _geometry(geometry: Mapping[Any, Record], stage: Stage, metric: str, convention: str) -> Cell:
    for name in (metric + words.CORRECTED, metric):
        found = geometry.get((stage.index, name, convention))
        if found is not None:
            return row_cell(found)
    return NOTHING


def _target(outcomes: Mapping[Any, list[Record]], stage: Stage, targets: Mapping[str, str]) -> Cell:
    """Accuracy on the stage's task, and what it was before; its held-out loss where the task has no accuracy."""
    task = targets.get(stage.name, stage.name)
    for outcome, kind in (("accuracy", ""), ("pair_accuracy", ", pairs"), ("loss", ", held-out loss")):
        found, before = (
            [row for row in outcomes.get((index, outcome), []) if row["task"] == task and row["split"] == TARGET_SPLIT]
            for index in (stage.index, stage.index - 1)
        )
        if found:
            show = words.number if outcome == "loss" else words.percent
            unit = " nats" if outcome == "loss" else ""
            since = f", from {show(float(before[0]['value']))}" if before else ""
            return row_cell(found[0], show, unit, task + kind + since)
    return NOTHING


def _retention(outcomes: Mapping[Any, list[Record]], stage: Stage) -> Cell:
    """In points of accuracy; in nats of held-out loss where the tasks have no accuracy."""
    cell = _mean(outcomes, stage, "retention", words.points, " points")
    if not math.isnan(cell.value):
        return cell
    return _mean(outcomes, stage, "retention_loss", words.difference, " nats")


def _mean(
    outcomes: Mapping[Any, list[Record]], stage: Stage, outcome: str, show: Show = words.number, unit: str = ""
) -> Cell:
    """The mean over tasks; with one task also its interval."""
    return mean_cell(outcomes.get((stage.index, outcome), []), show, unit)
