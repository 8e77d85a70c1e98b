"""Every arm against none, three ways: the geometry, the target gain that is kept, and what can still be learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from limberlm.analysis.arms import FUTURE, GEOMETRY, KEPT, NOT_TESTED, QUANTITIES
from limberlm.report import words
from limberlm.report.cells import Cell, number_cell
from limberlm.report.study.dots import Dot, Look, dots
from limberlm.report.study.told import Grid, Picture, Told

WAYS: dict[str, tuple[str, str, float]] = {
    GEOMETRY.name: ("Geometry: effective rank", "change of effective rank, %", 0.0),
    KEPT: ("Target gain kept", "share of none's target gain", 1.0),
    FUTURE.name: ("Future tasks: loss after learning them", "change of loss, nats (lower is better)", 0.0),
}
"""Title, axis and the value of no effect, of each way."""
ENOUGH = 0.8
"""The share of the target gain that an arm, to be recommended, must keep by its interval's lower end: our choice."""
LOOKS: dict[str, Look] = {"helps": "good", "harms": "bad", "no difference found": "plain", NOT_TESTED: "plain"}
LEGEND: dict[Look, str] = {"good": "helps", "bad": "harms", "plain": "no difference found"}
CAPTION = (
    "Each arm against the same ordering and seed without an intervention; bars are 95 % intervals over these pairs "
    "(Student's; Fieller's for the share). Helps, harms: p below 0.05 after Holm's adjustment over the arms. Whether a "
    "higher effective rank is a help, the other two say. Pairs of one seed share rows and beginnings: where seeds "
    "differ in how they answer to an arm, the intervals are too narrow. Detectable: the true effect that so many pairs "
    "would find four times in five."
)


def three_ways(table: pd.DataFrame) -> Told:
    """The section of a table from `arms_table`."""
    rows = {str(name): own.to_dict("records") for name, own in table.groupby("quantity", sort=False)}
    shown = {name: rows[name] for name in WAYS if name in rows}
    others = {name: own for name, own in rows.items() if name not in WAYS}
    return Told(
        key="arms",
        title="Interventions",
        verdict=_verdict(shown),
        pictures=[Picture(WAYS[name][0], _figure(name, own)) for name, own in shown.items()],
        grids=[_ways_grid(shown), *([_others_grid(others)] if others else [])],
        caption=CAPTION,
    )


def helpful(table: pd.DataFrame) -> dict[str, bool]:
    """The arms found to help future tasks, and whether each is shown to keep enough of the target gain."""
    future, kept = (table[table["quantity"] == name] for name in (FUTURE.name, KEPT))
    least = dict(zip(kept["arm"], kept["low"], strict=True))
    return {arm: least.get(arm, math.nan) >= ENOUGH for arm in future.loc[future["verdict"] == "helps", "arm"]}


def _verdict(rows: Mapping[str, Sequence[Mapping[Any, Any]]]) -> list[str]:
    said = []
    for name, own in rows.items():
        found = {verdict: [row["arm"] for row in own if row["verdict"] == verdict] for verdict in LOOKS}
        said_as = {"helps": "raised by", "harms": "lowered by"} if name == GEOMETRY.name else {}
        parts = [
            f"{said_as.get(verdict, verdict)}: {', '.join(found[verdict])}"
            for verdict in ("helps", "harms")
            if found[verdict]
        ]
        rest = [
            f"{verdict} in {len(found[verdict])} of {len(own)} arms"
            for verdict in ("no difference found", NOT_TESTED)
            if found[verdict]
        ]
        told = "; ".join([*parts, *rest])
        said.append(f"{WAYS[name][0]}. {told[0].upper()}{told[1:]}.")
    return said


def _figure(name: str, rows: Sequence[Mapping[Any, Any]]) -> Any:
    _, axis, none = WAYS[name]
    shown = [Dot(row["arm"], row["effect"], row["low"], row["high"], LOOKS[row["verdict"]], _note(row)) for row in rows]
    return dots(shown, axis, none, LEGEND if name != GEOMETRY.name else LEGEND | {"good": "raises", "bad": "lowers"})


def _note(row: Mapping[Any, Any]) -> str:
    return f"p adjusted {words.number(row['p_adjusted'], 2)}, {row['pairs']} pairs: {row['verdict']}"


def _ways_grid(rows: Mapping[str, Sequence[Mapping[Any, Any]]]) -> Grid:
    arms = dict.fromkeys(row["arm"] for own in rows.values() for row in own)
    by_arm = {(name, row["arm"]): row for name, own in rows.items() for row in own}
    columns = [(WAYS[name][0], WAYS[name][1]) for name in rows]
    lines = [([arm], [_cell(name, by_arm[name, arm]) for name in rows if (name, arm) in by_arm]) for arm in arms]
    return Grid("The three ways, by arm", ["Arm"], columns, lines)


def _others_grid(rows: Mapping[str, Sequence[Mapping[Any, Any]]]) -> Grid:
    titles = {quantity.name: quantity.what for quantity in QUANTITIES}
    columns = [("Effect", ""), ("p", "adjusted"), ("Detectable", "")]
    lines = [
        (
            [titles.get(name, name), row["arm"]],
            [_cell(name, row), *(number_cell(row[each], show=_two) for each in ("p_adjusted", "detectable"))],
        )
        for name, own in rows.items()
        for row in own
    ]
    return Grid("What else the arms change", ["Quantity", "Arm"], columns, lines)


def _cell(name: str, row: Mapping[Any, Any]) -> Cell:
    show = words.percent if name == KEPT else (lambda value: words.difference(value, 3))
    unit = words.PERCENT if name == GEOMETRY.name else ""
    said = {"helps": "raises", "harms": "lowers"} if name == GEOMETRY.name else {}
    remark = said.get(row["verdict"], row["verdict"])
    return number_cell(row["effect"], row["low"], row["high"], show=show, unit=unit, remark=remark)


def _two(value: float) -> str:
    return words.number(value, 2)
