"""Whether the order of the stages matters to the ends of the chains, and what of an order it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from limberlm.analysis.arms import FUTURE, GEOMETRY, Quantity
from limberlm.analysis.ordering import OrderingEffects
from limberlm.analysis.ordering.effects import of_ends, told_reasons
from limberlm.errors import UserError
from limberlm.report import words
from limberlm.report.cells import Cell, number_cell
from limberlm.report.drawing import Figure
from limberlm.report.study.data import ORDINARY
from limberlm.report.study.dots import Dot, dots
from limberlm.report.study.told import Grid, Picture, Told

ASKED = (FUTURE, GEOMETRY)
UNITS = {GEOMETRY.name: "effective rank"}
CAPTION = (
    "Means over seeds of chains without an intervention, with Student's 95 % intervals over seeds. The test exchanges "
    "the orderings' labels within each seed. Eta squared is the share of the spread between chains that goes with the "
    "ordering; orderings of pure noise have one too. Whether two orderings differ is not read from their intervals: "
    "chains of one seed share their rows."
)


def ordering_section(ends: pd.DataFrame) -> Told | None:
    """The section of ends of chains (`analysis.arms.ends`); None where there is one ordering only."""
    if ends.empty or ends["ordering"].nunique() < 2:
        return None
    arm = ORDINARY if (ends["arm"] == ORDINARY).any() else None
    verdict, reasons, found = [], [], []
    for quantity in ASKED:
        try:
            effects = of_ends(ends, quantity.name, arm)
        except UserError as error:
            reasons.append(str(error))
            continue
        found.append((quantity, effects))
        verdict.append(_sentence(quantity, effects))
    return Told(
        key="ordering",
        title="Does the order matter?",
        verdict=verdict or ["That cannot be answered yet."],
        reasons=[*reasons, *told_reasons([effects for _, effects in found])],
        pictures=[
            Picture(f"By ordering: {_unit(quantity)}", _figure(quantity, effects)) for quantity, effects in found
        ],
        grids=[grid for quantity, effects in found for grid in _grids(quantity, effects)],
        caption=CAPTION,
    )


def _sentence(quantity: Quantity, effects: OrderingEffects) -> str:
    spread = effects.anova
    share = f"eta² {words.number(spread.eta_squared, 2)}, share of seeds {words.number(spread.seed_share, 2)}"
    if effects.test is None:
        test = f"the smallest p that {_size(effects)} can reach is {words.number(effects.smallest_p, 2)}"
    else:
        found, reach = words.number(effects.test.p, 2), words.number(effects.test.smallest, 2)
        test = f"p = {found}, of at best {reach}; {_size(effects)}"
    return f"{_unit(quantity)[:1].upper()}{_unit(quantity)[1:]}: {effects.verdict} ({test}; {share})."


def _size(effects: OrderingEffects) -> str:
    return f"{effects.units['orderings']} orderings in {effects.units['seeds']} seeds"


def _figure(quantity: Quantity, effects: OrderingEffects) -> Figure:
    rows = effects.table.to_dict("records")
    shown = [Dot(row["ordering"], row["mean"], row["low"], row["high"]) for row in rows]
    centre = sum(row["mean"] for row in rows) / len(rows)
    return dots(shown, _unit(quantity), centre, {"plain": "mean over seeds"})


def _grids(quantity: Quantity, effects: OrderingEffects) -> list[Grid]:
    named = _unit(quantity)
    tables = (
        ("A stage later by one place", ("stage",), effects.positions),
        ("A stage directly after another, minus not", ("stage", "after"), effects.predecessors),
        ("First before second, minus second before first", ("first", "second"), effects.commutators),
    )
    columns = [("Change", named), ("p", "adjusted")]
    means = [([row["ordering"]], [_mean(row)]) for row in effects.table.to_dict("records")]
    return [
        Grid(f"By ordering: {named}", ["Ordering"], [("Mean", named)], means),
        *(
            Grid(f"{title}: {named}", [name.capitalize() for name in names], columns, _rows(table, names))
            for title, names, table in tables
            if len(table)
        ),
    ]


def _rows(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[Sequence[str], Sequence[Cell]]]:
    return [
        ([str(row[name]) for name in names], [_effect(row), number_cell(row["p_adjusted"], show=_two)])
        for row in table.to_dict("records")
    ]


def _mean(row: Mapping[Any, Any]) -> Cell:
    return number_cell(row["mean"], row["low"], row["high"])


def _effect(row: Mapping[Any, Any]) -> Cell:
    return number_cell(row["effect"], row["low"], row["high"], show=lambda value: words.difference(value, 3))


def _two(value: float) -> str:
    return words.number(value, 2)


def _unit(quantity: Quantity) -> str:
    return UNITS.get(quantity.name, quantity.what)
