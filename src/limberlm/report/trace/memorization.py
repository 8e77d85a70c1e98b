"""Memorization over training: correlation with the corpus's n-grams, and what reading a text more often does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, number_cell, row_cell
from limberlm.report.trace.data import MEMORIZATION, Stage, Trace, rows_where
from limberlm.report.trace.lines import Line, run_of
from limberlm.report.trace.panels import Panel
from limberlm.report.trace.view import Grid, Part, View, pictured

RHOS = (
    ("partial_rho", "given target length"),
    ("rho", "plain, the paper's"),
    ("partial_rho_unigram", "given length and unigram log-probability"),
)
ORDERS = ("1", "2", "3", "4", "5", "inf")
TASKS = ("spans", "skills")
"""The examples shown first: spans of the corpus and of held-out text together, then questions of all skills."""

PARTS = ("corpus", "held_out")

ALL = {"order": "inf", "zero": "floor", "stratum": "all"}
MOST_TASKS = 2


def part(view: View) -> Part:
    """Three correlations over training for each kind of example, orders, and log-probabilities by copies."""
    names = _tasks(view)
    if not names:
        return Part()
    pictures = []
    for task in names:
        panel = rho_panel(view, task)
        pictures += pictured(view, [panel], f"Correlation with the infinity-gram model, {task}", title=f"On {task}")
    for panel, title in ((order_panel(view, names[0]), f"By order of the n-gram, {names[0]}"), *_copies(view)):
        pictures += pictured(view, [panel], title, title=title)
    return Part(pictures, [*_rules(view, names[0]), *_strata(view, names[0])])


def rho_panel(view: View, task: str = "spans") -> Panel:
    """The three correlations on the examples of a task, unseen tokens treated by the rule that the series names."""
    rule = (view.runs[0].series.get("memorization") or {}).get("zero", ALL["zero"])
    fields = {**ALL, "zero": rule, "task": task}
    lines = [_line(view, name, i, statistic=key, **fields) for i, (key, name) in enumerate(RHOS, start=1)]
    title = "Rank correlation" if rule == ALL["zero"] else f"Rank correlation<br>unseen tokens: {rule}"
    return Panel(title, lines, 260, levels=[(0.0, "no correlation")])


def order_panel(view: View, task: str = "spans") -> Panel:
    """The headline correlation with n-gram models of fixed order, and with the infinity-gram model."""
    lines = [
        _line(view, "infinity-gram" if k == "inf" else f"{k}-gram", i, **ALL | {"order": k}, **_headline(task))
        for i, k in enumerate(ORDERS, start=1)
    ]
    return Panel("Rank correlation<br>given target length", lines, 240, levels=[(0.0, "no correlation")])


def copies_panel(view: View) -> Panel:
    """Mean log-probability of targets by how often the span stands in the corpus."""
    table = view.runs[0].tables[MEMORIZATION]
    lines = [_line(view, "held out", 0, " nats per token", statistic="log_probability", task="held_out")]
    counts = sorted(table["copies"].dropna().unique()) if "copies" in table else []
    for position, count in enumerate((int(count) for count in counts), start=1):
        name = f"{count} cop{'y' if count == 1 else 'ies'}"
        lines.append(
            _line(view, name, position, " nats per token", statistic="log_probability", task="corpus", copies=count)
        )
    return Panel("Mean log-probability<br>(nats per token)", lines, 260)


def gap_panel(view: View) -> Panel:
    """What corpus spans have over held-out ones."""
    line = _line(
        view, "corpus minus held out", 1, " nats per token", statistic="memorization_gap", task="spans", copies=None
    )
    return Panel("Corpus minus held out<br>(nats per token)", [line], 190, levels=[(0.0, "no difference")])


def _copies(view: View) -> tuple[tuple[Panel, str], ...]:
    return (
        (copies_panel(view), "By copies in the corpus"),
        (gap_panel(view), "What corpus spans have over held-out text"),
    )


def _headline(task: str) -> dict[str, str]:
    return {"statistic": "partial_rho", "task": task}


def _tasks(view: View) -> list[str]:
    """The kinds of examples that correlations were taken on: those of `TASKS` first, parts of `spans` left out."""
    table = view.runs[0].tables[MEMORIZATION]
    rows = rows_where(table, statistic="partial_rho", stage=view.stages[0].name)
    there = list(dict.fromkeys(rows["task"].dropna())) if "task" in rows else []
    whole = [task for task in there if task not in PARTS or "spans" not in there]
    return sorted(whole, key=lambda task: TASKS.index(task) if task in TASKS else len(TASKS))[:MOST_TASKS]


def _line(view: View, name: str, position: int, unit: str = "", **fields: Any) -> Line:
    runs = []
    for trace, stage in zip(view.runs, view.stages, strict=True):
        rows = trace.where(MEMORIZATION, stage=stage.name, **fields)
        runs.append(run_of(trace, stage, rows, name, unit=unit, counted="examples"))
    return Line(name, runs, position, view.mean)


def _last(view: View, task: str) -> tuple[Trace, Stage, pd.DataFrame]:
    """The rows of the last checkpoint at which a task was measured, of the first trace."""
    trace, stage = view.runs[0], view.stages[0]
    rows = rows_where(trace.tables[MEMORIZATION], stage=stage.name, task=task)
    return trace, stage, rows[rows["step"] == rows["step"].max()]


def _rules(view: View, task: str) -> list[Grid]:
    """What the treatment of unseen tokens changes, at the last checkpoint."""
    _, _, rows = _last(view, task)
    found = []
    for zero in ("floor", "drop", "released"):
        own = rows_where(rows, order="inf", zero=zero, stratum="all")
        if len(own):
            counts = [_count(own.iloc[0].get(name)) for name in ("touched", "left_out")]
            found.append((zero, [*(_cell(own, name) for name in ("rho", "partial_rho")), *counts]))
    heads = [("Plain rho", ""), ("Given length", ""), ("Touched", "examples"), ("Left out", "examples")]
    title = f"Tokens the corpus has never seen there: three rules, {task}, {_at(rows)}"
    return [Grid(heads, found, title, "Rule")] if len(found) > 1 else []


def _strata(view: View, task: str) -> list[Grid]:
    """The correlations where the corpus knows the context and the target well, or not, at the last checkpoint."""
    _, _, rows = _last(view, task)
    own = rows_where(rows, order="inf", zero="floor")
    names = [name for name in dict.fromkeys(own.get("stratum", pd.Series(dtype=str)).dropna()) if name != "all"]
    found = []
    for name in names:
        of_stratum = rows_where(own, stratum=name)
        examples = _count(of_stratum.iloc[0].get("n"))
        found.append((str(name), [*(_cell(of_stratum, statistic) for statistic in ("rho", "partial_rho")), examples]))
    heads = [("Plain rho", ""), ("Given length", ""), ("Examples", "")]
    title = f"By effective length and by frequency of the target, {task}, {_at(rows)}"
    return [Grid(heads, found, title, "Stratum")] if found else []


def _at(rows: pd.DataFrame) -> str:
    return f"step {words.count(float(rows['step'].iloc[0]))}" if len(rows) else ""


def _cell(rows: pd.DataFrame, statistic: str) -> Cell:
    own = rows_where(rows, statistic=statistic)
    if own.empty or pd.isna(own["value"].iloc[0]):
        return NOTHING
    return row_cell(own.iloc[0], partial(words.number, digits=3))


def _count(value: Any) -> Cell:
    return NOTHING if value is None or pd.isna(value) else number_cell(float(value), show=words.count)
