"""Scores with leading eigen-directions removed or kept, beside random directions and the unchanged model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from limberlm.report import words
from limberlm.report.headline import NOTHING, Cell
from limberlm.report.trace.data import ABLATION, Stage, Trace
from limberlm.report.trace.memorization import rows_where
from limberlm.report.trace.panels import Line, Panel
from limberlm.report.trace.runs import Show, run_of
from limberlm.report.trace.view import Grid, Part, View, pictured

SCORE, LOSS = "choice_accuracy_normalised", "loss"
VARIANTS = (
    ("removed", "top", "leading directions removed"),
    ("removed", "random", "random directions removed"),
    ("kept", "top", "leading directions alone"),
    ("kept", "random", "random directions alone"),
)
"""What the figure shows, beside the unchanged model."""

HEADS = (
    ("Accuracy", "multiple choice"),
    ("Difference", "to the unchanged model, points"),
    ("Loss", "nats per token"),
    ("Variance", "share of the directions"),
)
KINDS = {"top": "leading", "random": "random", "matched": "random of equal variance"}
DROPPED = ", mean left out"


def part(view: View) -> Part:
    """A figure for each number of directions, and a table of the last checkpoint."""
    pictures = []
    for k in _ks(view.runs[0], view.stages[0]):
        panel = ablation_panel(view, k)
        pictures += pictured(view, [panel], f"Multiple choice with {k} directions removed or kept", title=f"k = {k}")
    return Part(pictures, _table(view.runs[0], view.stages[0]))


def ablation_panel(view: View, k: int) -> Panel:
    """Mean accuracy over tasks, of the unchanged model and of every variant with k directions."""
    lines = [_line(view, "unchanged", 0, action="none")]
    for position, (action, directions, name) in enumerate(VARIANTS, start=1):
        lines.append(_line(view, name, position, action=action, directions=directions, k=k, mean="kept"))
    table = view.runs[0].tables[ABLATION]
    chance = table["chance"].mean() if "chance" in table else math.nan
    levels = [] if math.isnan(chance) else [(float(chance), f"chance ({words.percent(chance)})")]
    return Panel("Multiple choice<br>(mean over tasks)", lines, 260, levels=levels)


def _ks(trace: Trace, stage: Stage) -> list[int]:
    table = rows_where(trace.tables[ABLATION], stage=stage.name, directions="top")
    return sorted({int(k) for k in table["k"]}) if "k" in table else []


def _line(view: View, name: str, position: int, **fields: object) -> Line:
    runs = []
    for trace, stage in zip(view.runs, view.stages, strict=True):
        table = rows_where(trace.tables[ABLATION], outcome=SCORE, stage=stage.name, **fields)
        rows = pd.DataFrame(list(_by_step(table)), columns=["stage", "step", "value", "low", "high", "n", "counted"])
        runs.append(run_of(trace, stage, rows, name, words.percent))
    return Line(name, runs, position, view.mean)


def _by_step(table: pd.DataFrame) -> Iterator[tuple[str, int, float, float, float, float, str]]:
    for (stage, step), rows in table.groupby(["stage", "step"], sort=False) if len(table) else ():
        value, low, high = _over_tasks(rows, "value", "low", "high")
        draws = int(rows["draw"].nunique())
        counted = "questions" + (f", mean of {draws} draws" if draws > 1 else "")
        yield str(stage), int(str(step)), value, low, high, float(rows.drop_duplicates("task")["n"].sum()), counted


def _over_tasks(rows: pd.DataFrame, value: str, low: str, high: str) -> tuple[float, float, float]:
    """The mean over tasks and draws. Draws answer the same questions, so only tasks make the interval narrower."""
    by_task = rows.groupby("task")[[value, low, high]].mean()
    half = (by_task[high] - by_task[low]) / 2
    centre, mean = float(((by_task[high] + by_task[low]) / 2).mean()), float(by_task[value].mean())
    width = float(np.sqrt((half**2).sum()) / len(by_task))
    return mean, centre - width, centre + width


def _table(trace: Trace, stage: Stage) -> list[Grid]:
    """Every variant at the last checkpoint."""
    table = rows_where(trace.tables[ABLATION], stage=stage.name)
    if table.empty or "action" not in table:
        return []
    last = table[table["step"] == table["step"].max()]
    groups = last.groupby(["action", "k", "directions", "mean"], sort=False)
    rows = [(_name(*(str(part) for part in key)), _cells(own)) for key, own in groups if isinstance(key, tuple)]
    title = f"All variants at step {words.count(float(last['step'].iloc[0]))}, mean over tasks"
    return [Grid(HEADS, rows, title, "Variant")]


def _name(action: str, k: str, directions: str, mean: str) -> str:
    if action == "none":
        return "unchanged"
    return f"{k} {KINDS.get(directions, directions)} {action}" + (DROPPED if mean == "dropped" else "")


def _cells(rows: pd.DataFrame) -> Sequence[Cell]:
    scores, losses = (rows[rows["outcome"] == outcome] for outcome in (SCORE, LOSS))
    share = rows["variance_share"].mean()
    return [
        _cell(scores, ("value", "low", "high"), words.percent),
        _cell(scores, ("difference", "difference_low", "difference_high"), words.points),
        _cell(losses, ("value", "low", "high"), words.number),
        Cell(float(share), words.percent(float(share))),
    ]


def _cell(rows: pd.DataFrame, names: tuple[str, str, str], show: Show) -> Cell:
    if rows.empty or rows[names[0]].isna().all():
        return NOTHING
    value, low, high = _over_tasks(rows, *names)
    return Cell(value, show(value), f"{show(low)} to {show(high)}", "", low, high)
