"""What stands at the end of a chain, in the columns that chains are laid side by side in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from limberlm.analysis.direction import RANK
from limberlm.outcomes.calibration.names import SOURCES
from limberlm.outcomes.samples import OUT_OF_DOMAIN
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, Show, mean_cell, number_cell
from limberlm.report.study.changes import change_cell
from limberlm.report.study.data import Key, ReportData, Run
from limberlm.report.study.headline import TARGET_SPLIT

Row = dict[Any, Any]
RIGHT = ("accuracy", "pair_accuracy")
_KEYS, _NUMBERS = ("outcome", "task", "split", "step"), ("value", "low", "high")


@dataclass(frozen=True)
class Measure:
    """One column: its head, the note under it, and how a value of it is printed.

    `scale` is the one that means over seeds are taken on.
    """

    name: str
    title: str
    note: str
    show: Show
    scale: Literal["linear", "log"] = "linear"

    @property
    def head(self) -> tuple[str, str]:
        """Its head and note."""
        return self.title, self.note


@dataclass(frozen=True)
class End:
    """The last checkpoint of a chain with a seed (`key`), and the tasks that its accuracy is a mean over."""

    key: Key
    node: str
    tasks: tuple[str, ...]


def scores_of(data: ReportData) -> str:
    """`share` if the chains' tasks have right and wrong answers, `loss` if losses are all they have."""
    known = {scores for matrices in data.matrices.values() for scores in matrices}
    return "loss" if known == {"loss"} else "share"


def ece_source(data: ReportData) -> str | None:
    """The confidence source whose calibration error stands for all: the first that was measured."""
    return next((source for source in SOURCES if f"ece_{source}" in data.measured), None)


def measures(data: ReportData) -> tuple[Measure, ...]:
    """The columns, in order. What was measured nowhere is left out by who shows them (`measured_only`)."""
    losses = scores_of(data) == "loss"
    acc = ("ACC", "tasks' held-out loss, nats", words.number) if losses else ("ACC", "own tasks", words.percent)
    bwt_note, bwt_show = ("nats", words.difference) if losses else ("points", words.points)
    source = (ece_source(data) or "").replace("_", " ")
    return (
        Measure("rank", "Effective rank", "change from base", lambda x: words.change(RANK, x), "log"),
        Measure("acc", *acc),
        Measure("bwt", "BWT", f"earlier tasks, {bwt_note}", bwt_show),
        Measure("ood_accuracy", "OOD accuracy", "mean over tasks", words.percent),
        Measure("ood_loss", "OOD loss", "nats per token", words.number),
        Measure("plasticity", "Plasticity: loss after", "nats per token", words.number),
        Measure("ece", "ECE", source, lambda x: words.number(x, 3)),
    )


def end_cells(data: ReportData, end: End) -> dict[str, Cell]:
    """The cells of `measures` by name; BWT, which takes a whole chain, is that of the end's own score matrix."""
    rows = _rows_at(data, end)
    outside, inside = ([row for row in rows if row["split"] == split] for split in (OUT_OF_DOMAIN, TARGET_SPLIT))
    shown = {measure.name: measure.show for measure in measures(data)}
    right = ("loss",) if scores_of(data) == "loss" else RIGHT
    own = [row for row in _named(inside, *right) if row["task"] in end.tasks]
    matrix = data.matrices.get(end.key, {}).get(scores_of(data))
    bwt = matrix and matrix.bwt
    return {
        "rank": change_cell(data.changes.get(end.node, "base")),
        "acc": mean_cell(own, shown["acc"]),
        "bwt": number_cell(bwt.value, bwt.low, bwt.high, show=shown["bwt"]) if bwt else NOTHING,
        "ood_accuracy": mean_cell(_named(outside, *RIGHT), shown["ood_accuracy"]),
        "ood_loss": mean_cell(_named(outside, "loss"), shown["ood_loss"]),
        "plasticity": mean_cell(_named(rows, "loss_after"), shown["plasticity"]),
        "ece": mean_cell(_named(rows, f"ece_{ece_source(data)}"), shown["ece"]),
    }


def tasks_of(data: ReportData, run: Run) -> tuple[str, ...]:
    """The tasks that a run trains and that were scored."""
    matrix = data.matrices.get(run.key, {}).get(scores_of(data))
    return matrix.tasks if matrix is not None else tuple(data.targets.get(s.name, s.name) for s in run.stages[1:])


def measured_only(data: ReportData, rows: list[Mapping[str, Cell]]) -> tuple[Measure, ...]:
    """The columns that some row has a value in."""
    return tuple(each for each in measures(data) if any(not math.isnan(row[each.name].value) for row in rows))


def _rows_at(data: ReportData, end: End) -> list[Row]:
    """The outcomes of the checkpoint at the fixed rate; of several that are of the same, the first."""
    outcomes = data.rows("outcomes", end.key)
    own = data.at_fixed_rate(outcomes[outcomes["node"] == end.node])
    found: dict[Any, Row] = {}
    for values in zip(*(own[name].tolist() for name in (*_KEYS, *_NUMBERS)), strict=True):
        row = dict(zip((*_KEYS, *_NUMBERS), values, strict=True))
        found.setdefault(values[: len(_KEYS)], row)
    return list(found.values())


def _named(rows: list[Row], *outcomes: str) -> list[Row]:
    return [row for row in rows if row["outcome"] in outcomes]
