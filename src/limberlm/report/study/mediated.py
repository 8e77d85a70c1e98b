"""Whether arms act through the geometry: what each moves, and what may be said of the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limberlm.analysis.mediation import (
    GEOMETRY,
    KL,
    OUTCOME,
    TARGET,
    WITHOUT_GEOMETRY,
    WITHOUT_KL,
    Mediation,
)
from limberlm.report import drawing, style, words
from limberlm.report.cells import Cell, number_cell
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.study.told import Grid, Picture, Told

TITLE = "Do arms act through the geometry?"
CLASSES = (WITHOUT_KL, WITHOUT_GEOMETRY, "moves both", "moves neither", "unclear")
X, Y = "change of effective rank, %", "change of loss on future tasks, nats (lower is better)"
CAPTION = (
    "Each arm against the same ordering and seed without one, with 95 % intervals over these pairs. Moves: p below "
    "0.05 after Holm's adjustment over the arms. Holds: the interval lies within a quarter of what chains without an "
    "intervention did to the base, a tenth for the target; these margins are our choice. Mediation is spoken of only "
    "if an arm moves the geometry, an arm moves the outcome, and the outcome follows every one of three kinds of arm "
    "or more that move geometry without KL, while it holds under one that moves KL without geometry."
)


def mediation_section(found: Mediation | None, why: str) -> Told | None:
    """The section of a mediation; of why there is none; None where nothing is known of either."""
    if found is None:
        return Told("mediation", TITLE, [f"That cannot be answered: {why}."]) if why else None
    rows = found.table.to_dict("records")
    return Told(
        key="mediation",
        title=TITLE,
        verdict=found.words,
        reasons=found.reasons,
        pictures=[Picture("What arms do to the geometry, and to what can still be learnt", _figure(rows))],
        grids=[_grid(rows)],
        caption=CAPTION,
    )


def _figure(rows: Sequence[Mapping[Any, Any]]) -> Figure:
    """A point per arm with an interval each way; colour and symbol tell its class."""
    drawn: list[Drawn] = []
    for position, name in enumerate(CLASSES, start=1):
        if own := [row for row in rows if row["class"] == name]:
            place = 0 if name == "unclear" else position
            drawn += [*_spans(own, style.colour(place), name), _points(own, place, name)]
    lines = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0},
        {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 0, "x1": 0},
    ]
    layout = drawing.layout(420, {"title": {"text": X}}, {"title": {"text": Y}}, top=70)
    return Figure(drawn, layout | {"shapes": [line | {"layer": "below", "line": drawing.DASHED} for line in lines]})


def _points(rows: Sequence[Mapping[Any, Any]], position: int, name: str) -> Drawn:
    return {
        "type": "scatter",
        "x": [row[GEOMETRY] for row in rows],
        "y": [row[OUTCOME] for row in rows],
        "name": name,
        "mode": "markers",
        "marker": {"color": style.colour(position), "symbol": style.symbol(position), "size": 10},
        "legendgroup": name,
        "customdata": [(escaped(row["arm"]), _said(row)) for row in rows],
        "hovertemplate": drawing.HOVER,
    }


def _spans(rows: Sequence[Mapping[Any, Any]], colour: str, group: str) -> list[Drawn]:
    across, upright = ([row for row in rows if math.isfinite(row[f"{name}_low"])] for name in (GEOMETRY, OUTCOME))
    both = (
        (_ends(across, GEOMETRY), _twice(across, OUTCOME)),
        (_twice(upright, GEOMETRY), _ends(upright, OUTCOME)),
    )
    common = {"type": "scatter", "mode": "lines", "line": {"color": colour, "width": 2}, "legendgroup": group}
    return [common | {"x": x, "y": y, "hoverinfo": "skip", "showlegend": False} for x, y in both if x]


def _ends(rows: Sequence[Mapping[Any, Any]], name: str) -> list[float | None]:
    return [value for row in rows for value in (row[f"{name}_low"], row[f"{name}_high"], None)]


def _twice(rows: Sequence[Mapping[Any, Any]], name: str) -> list[float | None]:
    return [value for row in rows for value in (row[name], row[name], None)]


def _said(row: Mapping[Any, Any]) -> str:
    told = (
        f"{what} {words.exact(row[name])}{drawing.interval_text(row[f'{name}_low'], row[f'{name}_high'])}"
        for what, name in (("effective rank, %:", GEOMETRY), ("future loss:", OUTCOME), ("KL to the base:", KL))
    )
    return f"{row['class']}, {row['pairs']} pairs<br>{'<br>'.join(told)}"


def _grid(rows: Sequence[Mapping[Any, Any]]) -> Grid:
    columns = [
        ("Effective rank", "change, %"),
        ("KL to the base", "change, nats"),
        ("Future tasks", "change of loss, nats"),
        ("Target", "change of loss, nats"),
        ("a x b", "through the geometry, nats"),
    ]
    lines = [
        ([row["arm"], row["class"]], [*(_cell(row, name) for name in (GEOMETRY, KL, OUTCOME, TARGET)), _through(row)])
        for row in rows
    ]
    return Grid("What each arm moves and holds", ["Arm", "Class"], columns, lines)


def _cell(row: Mapping[Any, Any], name: str) -> Cell:
    numbers = (float(row[each]) for each in (name, f"{name}_low", f"{name}_high"))
    return number_cell(*numbers, show=_signed, remark=row[f"{name}_state"])


def _through(row: Mapping[Any, Any]) -> Cell:
    return number_cell(*(float(row[name]) for name in ("indirect", "indirect_low", "indirect_high")), show=_signed)


def _signed(value: float) -> str:
    return words.difference(value, 3)
