"""Whether geometry predicts what comes next, beyond cheaper numbers, in chains not seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from limberlm.analysis.prediction import Prediction
from limberlm.report import words
from limberlm.report.cells import Cell, number_cell
from limberlm.report.study.dots import Dot, Look, dots
from limberlm.report.study.told import Grid, Picture, Told

PERMUTATIONS = 199
"""Fewer than `limber analyze` draws, so that a report takes seconds: its p-values are coarse below 0.01."""
OUTCOME = "loss_after"
LEGEND: dict[Look, str] = {"good": "adds", "plain": "not found to add"}
CAPTION = (
    "Delta R²: how much more of the outcome is predicted in chains that were left out, with one geometry metric "
    "besides the covariates (stage, task, score, loss, tokens, size of the update, KL and entropy where measured). "
    "Below zero: it makes the prediction worse. Intervals: bootstrap over sets of chains that share no checkpoint. p: "
    f"whole trajectories exchanged between chains, {PERMUTATIONS} times here at most; `limber analyze` draws more. "
    "Association, not cause."
)


def prediction_section(found: Prediction | None, why: str) -> Told | None:
    """The section of a prediction; of why there is none; None where nothing is known of either."""
    if found is None:
        return (
            Told("prediction", "Does geometry predict what comes next?", [f"That cannot be answered: {why}."])
            if why
            else None
        )
    counts = found.units
    size = ", ".join(
        f"{name}: {counts[name]}" for name in ("families", "orderings", "seeds", "chains", "nodes", "rows")
    )
    own = found.table[found.table["registered"]] if len(found.table) else found.table
    return Told(
        key="prediction",
        title="Does geometry predict what comes next?",
        verdict=[f"{size[:1].upper()}{size[1:]}.", *found.verdict],
        reasons=found.reasons,
        pictures=[Picture("Registered metrics: what each adds", _figure(own))] if len(own) else [],
        grids=[_grid(own), *([_rivals(found.rivals)] if len(found.rivals) else [])] if len(own) else [],
        caption=CAPTION,
    )


def _figure(table: pd.DataFrame) -> Any:
    first = table[table["scheme"] == table["scheme"].iloc[0]]
    shown = [
        Dot(row["cell"], row["delta"], row["low"], row["high"], _look(row), _p(row)) for row in first.to_dict("records")
    ]
    return dots(shown, f"delta R², one {first['scheme'].iloc[0]} left out", 0.0, LEGEND)


def _look(row: Mapping[Any, Any]) -> Look:
    return "good" if row["p_adjusted"] < 0.05 and row["delta"] > 0 and not row["low"] <= 0 else "plain"


def _p(row: Mapping[Any, Any]) -> str:
    return f"p adjusted {words.number(row['p_adjusted'], 2)}"


def _grid(table: pd.DataFrame) -> Grid:
    columns = [("R²", "covariates alone"), ("Delta R²", "with the metric"), ("p", "exchanged"), ("p", "adjusted, Holm")]
    rows = [
        (
            [row["cell"], row["scheme"]],
            [
                number_cell(row["r2_m0"], show=_three),
                _cell(row, "delta", "low", "high"),
                *(number_cell(row[name], show=_two) for name in ("p", "p_adjusted")),
            ],
        )
        for row in table.to_dict("records")
    ]
    return Grid("Registered metrics", ["Metric", "Left out"], columns, rows)


def _rivals(table: pd.DataFrame) -> Grid:
    columns = [("Delta R²", "on top of the covariates"), ("Beyond the best rival", "paired")]
    rows = [
        (
            [row["name"], row["kind"]],
            [_cell(row, "delta", "low", "high"), _cell(row, "beyond", "beyond_low", "beyond_high")],
        )
        for row in table.to_dict("records")
    ]
    return Grid("Metrics beside cheaper rivals", ["Name", "Kind"], columns, rows)


def _cell(row: Mapping[Any, Any], value: str, low: str, high: str) -> Cell:
    numbers = (float(row.get(name, float("nan"))) for name in (value, low, high))
    return number_cell(*numbers, show=lambda number: words.difference(number, 3))


def _two(value: float) -> str:
    return words.number(value, 2)


def _three(value: float) -> str:
    return words.number(value, 3)
