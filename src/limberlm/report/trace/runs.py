"""From the tables of a trace to runs: one quantity at the checkpoints of a stage, with the texts of its hover."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from limberlm.report import traces, words
from limberlm.report.trace.data import OUTCOMES, Stage, Trace
from limberlm.report.trace.panels import Line
from limberlm.report.traces import plain

RANK = "effective_rank"
PAPER_NAME = "called RankMe in 2509.23024"
RANK_LINE, ALPHA_LINE = "effective rank", "alpha-ReQ"
"""The lines whose turning points are marked, as the figures name them."""
Show = Callable[[float], str]


def metric_name(metric: str) -> str:
    """A metric's title; effective rank with the name that the paper gives it.

    >>> metric_name("effective_rank"), metric_name("stable_rank")
    ('Effective rank, called RankMe in 2509.23024', 'Stable rank')
    """
    return f"Effective rank, {PAPER_NAME}" if metric == RANK else words.metric_title(metric)


def exact(value: float) -> str:
    """A number to six digits."""
    return words.number(value, 6)


def run_of(
    trace: Trace, stage: Stage, rows: pd.DataFrame, what: str, show: Show = exact, unit: str = ""
) -> pd.DataFrame:
    """Rows of one quantity as a run: `t` beside them, in its order, with `label` and `text` for the hover.

    A row's count `n`, if there is one, is told as well.
    """
    kept = rows[rows["stage"] == stage.name].drop_duplicates("step")
    kept = kept.drop(columns=["t"], errors="ignore").merge(stage.checkpoints[["step", "t"]], on="step").sort_values("t")
    texts = [_text(row, what, show, unit) for row in kept.to_dict("records")]
    return kept.assign(label=labels(trace, stage, kept), text=texts)


def metric_run(trace: Trace, stage: Stage, metric: str, place: tuple[str, str] | None = None) -> pd.DataFrame:
    """One metric over a stage, bias-corrected where the table has that row: its interval is centred there.

    `place` is (site, convention), the trace's own by default.
    """
    site, convention = place or trace.place()
    table = trace.geometry
    here = (table["site"] == site) & (table["convention"] == convention)
    rows = table[here & (table["metric"] == metric + words.CORRECTED)]
    rows = rows if len(rows) else table[here & (table["metric"] == metric)]
    return run_of(trace, stage, rows.assign(n=rows["n_sequences"], counted="sequences"), metric_name(metric))


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
    show: Show = exact,
    unit: str = "",
) -> list[Line]:
    """An outcome of one stage, a line per task and split, colours from position `first` on."""
    tables = [run.tables[OUTCOMES] for run in runs]
    tables = [table[table["outcome"] == outcome] for table in tables]
    keys = dict.fromkeys(key for table in tables for key in zip(table["task"], _splits(table), strict=True))
    lines = []
    for position, (task, split) in enumerate(keys, start=first):
        name = str(task) if split in ("", "in_domain", "multiple_choice") else f"{task}, {split.replace('_', ' ')}"
        found = [
            run_of(trace, stage, table[(table["task"] == task) & (_splits(table) == split)], name, show, unit)
            for trace, stage, table in zip(runs, stages, tables, strict=True)
        ]
        lines.append(Line(name, found, position, mean))
    return [line for line in lines if any(len(run) for run in line.runs)]


def setting(rows: pd.DataFrame, name: str) -> list[Any]:
    """The values of one of the settings that outcome rows carry as JSON, without repeats.

    >>> setting(pd.DataFrame({"settings": ['{"chance": 0.25}', None, '{"chance": 0.25}']}), "chance")
    [0.25]
    """
    said = [json.loads(text) for text in rows.get("settings", pd.Series(dtype=object)) if isinstance(text, str)]
    return list(dict.fromkeys(found[name] for found in said if name in found))


def labels(trace: Trace, stage: Stage, rows: pd.DataFrame) -> list[str]:
    """The first line of each hover: the trace, its stage and the checkpoint."""
    head = plain(f"{trace.name}, {stage.name}")
    tokens = stage.axis.column == "tokens"
    steps = zip(rows["step"], rows["t"], strict=True)
    return [f"{head}, step {words.count(step)}" + (f" ({stage.axis.say(t)})" if tokens else "") for step, t in steps]


def _splits(table: pd.DataFrame) -> pd.Series:
    return table["split"].fillna("").astype(str) if "split" in table else pd.Series("", index=table.index)


def _text(row: dict[Any, Any], what: str, show: Show, unit: str) -> str:
    low, high = row.get("low", math.nan), row.get("high", math.nan)
    known = not (math.isnan(low) or math.isnan(high))
    span = f"95 % interval {show(low)} to {show(high)}{unit}" if known else "no interval"
    n = row.get("n", math.nan)
    count = "" if math.isnan(n) else f"<br>{words.count(n)} {row.get('counted', 'items')}"
    return f"{plain(what)}: {show(row['value'])}{unit}<br>{span}{count}"


def has_value(lines: Sequence[Line]) -> bool:
    """Whether any of the lines has a number."""
    return any(run["value"].notna().any() for line in lines for run in line.runs)


def level_texts(values: Sequence[float], name: str) -> list[tuple[float, str]]:
    """Reference values with a name each, for a panel."""
    return [(float(value), f"{name} ({traces.plain(words.number(value, 3))})") for value in values]
