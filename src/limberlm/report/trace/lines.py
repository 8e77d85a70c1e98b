"""From the tables of a trace to lines: one quantity at the checkpoints of a stage, with the texts of its hover."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from limberlm.analysis.direction import RANK
from limberlm.report import words
from limberlm.report.cells import Show
from limberlm.report.drawing import escaped
from limberlm.report.trace.data import OUTCOMES, TRACE, Stage, Trace

PAPER_NAME = "called RankMe in 2509.23024"
RANK_LINE, ALPHA_LINE = "effective rank", "alpha-ReQ"
"""The lines whose turning points are marked, as the figures name them."""
RUN = ("t", "value", "low", "high", "label", "text")
"""The columns of a run."""


@dataclass(frozen=True)
class Line:
    """One quantity over training: a frame per seed with columns t, value, low, high, label and text (the hover).

    `mean`: several seeds have a thick mean line, `log` over their logarithms.
    """

    name: str
    runs: Sequence[pd.DataFrame]
    position: int = 1
    mean: bool = False
    log: bool = False


def metric_name(metric: str) -> str:
    """A metric's title; effective rank with the name that the paper gives it.

    >>> metric_name("effective_rank"), metric_name("stable_rank")
    ('Effective rank, called RankMe in 2509.23024', 'Stable rank')
    """
    return f"Effective rank, {PAPER_NAME}" if metric == RANK else words.metric_title(metric)


def run_of(
    trace: Trace,
    stage: Stage,
    rows: pd.DataFrame,
    what: str,
    show: Show = words.exact,
    unit: str = "",
    counted: str = "items",
) -> pd.DataFrame:
    """Rows of one quantity in one stage as a run: t, value, low, high, and the two texts of the hover, in order of t.

    A row's count `n` of what is `counted` is told as well, if there is one.
    """
    places = dict(zip(stage.checkpoints["step"].tolist(), stage.checkpoints["t"].tolist(), strict=True))
    columns = [_floats(rows, name) for name in ("value", "low", "high", "n")]
    first = {step: row for step, *row in reversed(list(zip(rows["step"].tolist(), *columns, strict=True)))}
    found = sorted((places[step], step, *row) for step, row in first.items() if step in places)
    return pd.DataFrame(
        [
            (t, value, low, high, label(trace, stage, step, t), _text(value, low, high, n, what, show, unit, counted))
            for t, step, value, low, high, n in found
        ],
        columns=list(RUN),
    )


def metric_run(trace: Trace, stage: Stage, metric: str, place: tuple[str, str] | None = None) -> pd.DataFrame:
    """One metric over a stage, bias-corrected where the table has that row: its interval is centred there.

    `place` is (site, convention), the trace's own by default.
    """
    site, convention = place or trace.place()
    where = {"stage": stage.name, "site": site, "convention": convention}
    rows = trace.where(TRACE, **where, metric=metric + words.CORRECTED)
    rows = rows if len(rows) else trace.where(TRACE, **where, metric=metric)
    return run_of(trace, stage, rows.assign(n=rows["n_sequences"]), metric_name(metric), counted="sequences")


def metric_line(
    runs: Sequence[Trace], stages: Sequence[Stage], metric: str, name: str, position: int, mean: bool
) -> Line:
    """A metric of one stage, one run per trace."""
    found = [metric_run(trace, stage, metric) for trace, stage in zip(runs, stages, strict=True)]
    return Line(name, found, position, mean, log=words.is_ratio(metric))


def outcome_lines(
    runs: Sequence[Trace],
    stages: Sequence[Stage],
    outcome: str,
    mean: bool,
    *,
    first: int = 1,
    show: Show = words.exact,
    unit: str = "",
) -> list[Line]:
    """An outcome of one stage, a line per task and split, colours from position `first` on."""
    tables = [run.where(OUTCOMES, stage=stage.name, outcome=outcome) for run, stage in zip(runs, stages, strict=True)]
    keys = dict.fromkeys(key for table in tables for key in zip(table["task"], _splits(table), strict=True))
    lines = []
    for position, (task, split) in enumerate(keys, start=first):
        name = str(task) if split in ("", "in_domain", "multiple_choice") else f"{task}, {split.replace('_', ' ')}"
        found = [
            run_of(trace, stage, table[(table["task"] == task) & (_splits(table) == split)], name, show, unit)
            for trace, stage, table in zip(runs, stages, tables, strict=True)
        ]
        lines.append(Line(name, found, position, mean))
    return lines


def setting(rows: pd.DataFrame, name: str) -> list[Any]:
    """The values of one of the settings that outcome rows carry as JSON, without repeats.

    >>> setting(pd.DataFrame({"settings": ['{"chance": 0.25}', None, '{"chance": 0.25}']}), "chance")
    [0.25]
    """
    said = [json.loads(text) for text in rows.get("settings", pd.Series(dtype=object)) if isinstance(text, str)]
    return list(dict.fromkeys(found[name] for found in said if name in found))


def label(trace: Trace, stage: Stage, step: float, t: float) -> str:
    """The first line of a hover: the trace, its stage and the checkpoint."""
    said = f"{trace.name}, {stage.name}, step {words.count(step)}"
    return escaped(said + (f" ({stage.axis.say(t)})" if stage.axis.column == "tokens" else ""))


def _splits(table: pd.DataFrame) -> pd.Series:
    return table["split"].fillna("").astype(str) if "split" in table else pd.Series("", index=table.index)


def _floats(rows: pd.DataFrame, name: str) -> list[float]:
    found: list[float] = rows[name].astype(float).tolist() if name in rows else [math.nan] * len(rows)
    return found


def _text(value: float, low: float, high: float, n: float, what: str, show: Show, unit: str, counted: str) -> str:
    known = not (math.isnan(low) or math.isnan(high))
    span = f"95 % interval {show(low)} to {show(high)}{unit}" if known else "no interval"
    count = "" if math.isnan(n) else f"<br>{words.count(n)} {counted}"
    return f"{escaped(what)}: {show(value)}{unit}<br>{span}{count}"
