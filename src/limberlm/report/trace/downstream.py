"""What the checkpoints can do, over training, and how that goes together with geometry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import pandas as pd

from limberlm.analysis import track
from limberlm.analysis.direction import ALPHA, RANK
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, number_cell
from limberlm.report.trace.data import OUTCOMES
from limberlm.report.trace.lines import metric_run, outcome_lines, setting
from limberlm.report.trace.panels import Panel
from limberlm.report.trace.view import Grid, Part, View, pictured

SCORES = {
    "choice_accuracy_normalised": "Multiple choice<br>(score per token)",
    "choice_accuracy_summed": "Multiple choice<br>(summed score)",
    "accuracy": "Exact answers",
    "pair_accuracy": "Pairs ordered right",
}
TRACKED = {"choice_accuracy_normalised": "multiple choice", "accuracy": "exact answers"}
AGAINST = {RANK: "effective rank", ALPHA: "alpha-ReQ"}
FEWEST = 4
HEADS = (
    ("Pearson", "plain"),
    ("Naive p", "as if independent"),
    ("Spearman", "plain"),
    ("First differences", "Pearson"),
    ("Given ln t", "Pearson, partial"),
    ("Circular shift", "p"),
    ("n", "checkpoints"),
)


def part(view: View) -> Part:
    """Accuracies over training, multiple choice with the line of chance, and their correlations with geometry."""
    pictures = []
    for panel in score_panels(view):
        pictures += pictured(view, [panel], f"{panel.title.replace('<br>', ' ')} over training")
    return Part(pictures, correlations(view) if pictures else [])


def score_panels(view: View) -> list[Panel]:
    """A panel for each kind of score that was measured."""
    panels = []
    for outcome, title in SCORES.items():
        lines = outcome_lines(view.runs, view.stages, outcome, view.mean, show=words.percent)
        panels.append(Panel(title, lines, 240, levels=_chance(view, outcome)))
    return [panel for panel in panels if panel.shown]


def correlations(view: View) -> list[Grid]:
    """Correlations of scores with effective rank and alpha-ReQ over the checkpoints, of the first trace."""
    runs, stages = view.runs[:1], view.stages[:1]
    rows = []
    for outcome, kind in TRACKED.items():
        for line in outcome_lines(runs, stages, outcome, False):
            for metric, name in AGAINST.items():
                cells = _tracked(line.runs[0], metric_run(runs[0], stages[0], metric))
                if cells:
                    rows.append((f"{line.name}, {kind}, with {name}", cells))
    title = "Correlations with geometry over the checkpoints" + (f", {runs[0].name}" if len(view.runs) > 1 else "")
    return [Grid(HEADS, rows, title, "Score")] if rows else []


def _tracked(score: pd.DataFrame, geometry: pd.DataFrame) -> list[Cell]:
    """One row of the table; none with fewer than four checkpoints that have both."""
    both = score.merge(geometry, on="t", suffixes=("", "_geometry")).dropna(subset=["value", "value_geometry"])
    if len(both) < FEWEST:
        return []
    found = track(both["t"], both["value"], both["value_geometry"])
    shown = [
        _cell(found.pearson),
        _p(found.naive_p),
        *(_cell(value) for value in (found.spearman, found.differences, found.partial)),
        _p(found.shift_p),
    ]
    return [*shown, Cell(found.n, str(found.n))]


def _cell(value: float) -> Cell:
    return number_cell(value, show=partial(words.difference, digits=2))


def _p(value: float) -> Cell:
    return NOTHING if math.isnan(value) else Cell(value, words.number(value, 2) if value >= 1e-4 else f"{value:.0e}")


def _chance(view: View, outcome: str) -> Sequence[tuple[float, str]]:
    rows = view.runs[0].where(OUTCOMES, stage=view.stages[0].name, outcome=outcome)
    values = {0.5} if outcome == "pair_accuracy" else set(setting(rows, "chance"))
    return [(value, f"chance ({words.percent(value)})") for value in sorted(values)]
