"""Scores with leading eigen-directions removed or kept, beside random directions and the unchanged model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, Show, number_cell, row_cell
from limberlm.report.trace.data import ABLATION, Stage, Trace, rows_where
from limberlm.report.trace.lines import Line, run_of
from limberlm.report.trace.panels import Panel
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
VARIANT = ["action", "k", "directions", "mean"]
"""The columns that name a variant."""

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
        table = trace.where(ABLATION, stage=stage.name, outcome=SCORE, **fields)
        draws = int(table["draw"].nunique()) if len(table) else 0
        counted = "questions" + (f", mean of {draws} draws" if draws > 1 else "")
        runs.append(run_of(trace, stage, _over_tasks(table, ["step"], "value"), name, words.percent, counted=counted))
    return Line(name, runs, position, view.mean)


def _over_tasks(rows: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """The mean over tasks and draws of `value` in each group: `by`, value, low, high and n.

    Draws answer the same questions, so only tasks make the interval narrower: the half widths of T tasks with
    intervals that are independent give one of sqrt(sum half^2) / T.
    """
    if rows.empty:
        return pd.DataFrame(columns=[*by, "value", "low", "high", "n"])
    low, high = ("low", "high") if value == "value" else (f"{value}_low", f"{value}_high")
    by_task = rows.groupby([*by, "task"], sort=False, dropna=False)[[value, low, high, "n"]].mean()
    made = pd.DataFrame(
        {
            "value": by_task[value],
            "centre": (by_task[low] + by_task[high]) / 2,
            "square": ((by_task[high] - by_task[low]) / 2) ** 2,
            "n": by_task["n"],
        }
    ).groupby(by, sort=False, dropna=False)
    mean, half = made[["value", "centre"]].mean(), np.sqrt(made["square"].sum(min_count=1)) / made.size()
    found = {"value": mean["value"], "low": mean["centre"] - half, "high": mean["centre"] + half, "n": made["n"].sum()}
    return pd.DataFrame(found).reset_index()


def _table(trace: Trace, stage: Stage) -> list[Grid]:
    """Every variant at the last checkpoint."""
    table = rows_where(trace.tables[ABLATION], stage=stage.name)
    if table.empty or "action" not in table:
        return []
    last = table[table["step"] == table["step"].max()]
    shares = last.groupby(VARIANT, sort=False)["variance_share"].mean()
    cells = {
        "accuracy": _cells(last[last["outcome"] == SCORE], "value", words.percent),
        "difference": _cells(last[last["outcome"] == SCORE], "difference", words.points),
        "loss": _cells(last[last["outcome"] == LOSS], "value", words.number),
        "share": {key: number_cell(share, show=words.percent) for key, share in shares.items()},
    }
    rows = [(_name(*map(str, key)), [of.get(key, NOTHING) for of in cells.values()]) for key in cells["share"]]
    title = f"All variants at step {words.count(float(last['step'].iloc[0]))}, mean over tasks"
    return [Grid(HEADS, rows, title, "Variant")]


def _name(action: str, k: str, directions: str, mean: str) -> str:
    if action == "none":
        return "unchanged"
    return f"{k} {KINDS.get(directions, directions)} {action}" + (DROPPED if mean == "dropped" else "")


def _cells(rows: pd.DataFrame, value: str, show: Show) -> dict[Any, Cell]:
    """A cell for each variant."""
    found = _over_tasks(rows, VARIANT, value)
    return {tuple(row[name] for name in VARIANT): _cell(row, show) for row in found.to_dict("records")}


def _cell(row: dict[Any, Any], show: Show) -> Cell:
    return NOTHING if math.isnan(row["value"]) else row_cell(row, show)
