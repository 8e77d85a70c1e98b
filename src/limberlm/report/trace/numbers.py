"""Every number of a trace, packed for the page, which sorts, narrows and copies them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from limberlm.report import words
from limberlm.report.trace.data import ABLATION, MEMORIZATION, OUTCOMES, Trace
from limberlm.report.trace.lines import metric_name

HEADS = ("Trace", "Stage", "Quantity", "Where", "Step", "Tokens", "Value", "Low", "High", "n")
TEXTS = 4
"""How many of the first columns hold text; the others hold numbers."""

DETAILS = ("task", "split", "statistic", "kind", "zero", "order", "stratum", "mode", "control", "k")
"""Columns that tell rows of one quantity apart, in the order in which they are named."""


def number_table(runs: Sequence[Trace]) -> dict[str, Any]:
    """`heads`, the `names` in the text columns, and `rows`: places among the names, then numbers (exact).

    A page with tens of thousands of rows stays small this way.
    """
    names: list[dict[str, int]] = [{} for _ in range(TEXTS)]
    rows: list[list[float | int]] = []
    for run in runs:
        for row in (*_geometry(run), *_outcomes(run)):
            said = (run.name, str(row["stage"]), row["what"], row["where"])
            places = [known.setdefault(text, len(known)) for known, text in zip(names, said, strict=True)]
            rows.append([*places, *(_float(row.get(name)) for name in ("step", "tokens", "value", "low", "high", "n"))])
    return {"heads": list(HEADS), "names": [list(known) for known in names], "rows": rows}


def _geometry(run: Trace) -> Iterator[dict[Any, Any]]:
    titles = {metric: metric_name(metric) for metric in run.geometry["metric"].unique()}
    for row in run.geometry.to_dict("records"):
        where = f"{words.site_title(row['site'])}, {row['convention']}"
        yield row | {"what": titles[row["metric"]], "where": where, "n": row["n_sequences"]}


def _outcomes(run: Trace) -> Iterator[dict[Any, Any]]:
    for file, fallback in ((OUTCOMES, "outcome"), (MEMORIZATION, "memorization"), (ABLATION, "ablation")):
        for row in run.tables[file].to_dict("records"):
            what = str(row.get("outcome") or row.get("statistic") or fallback)
            parts = [_detail(name, row[name]) for name in DETAILS if name in row and row[name] != what]
            yield row | {"what": what.replace("_", " "), "where": ", ".join(part for part in parts if part)}


def _detail(name: str, value: Any) -> str:
    if value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.replace("_", " ") if isinstance(value, str) else f"{name} {value:g}"


def _float(value: Any) -> float:
    return math.nan if value is None or value is pd.NA else float(value)
