"""How the updates of a run's stages lie to each other: the excess of their overlap over chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from limberlm.report import drawing, style, words
from limberlm.report.cells import Cell, number_cell
from limberlm.report.drawing import Figure, escaped
from limberlm.report.study.data import Run, Stage
from limberlm.report.study.figures import STAGE_AXIS

METRIC = "update_excess_overlap"
CAPTION = (
    "Of two stages' updates, how much of their directions they share beyond what two random updates of the same "
    "shapes share: 0 by chance, 1 if they are the same directions on both sides. Weighted mean over the weights; "
    "beside it what chance gives, with its spread."
)


@dataclass(frozen=True)
class Overlap:
    """A pair of stages, the earlier first: the excess overlap of their updates, with chance's beside it."""

    earlier: Stage
    later: Stage
    excess: Cell
    chance: Cell
    deviations: Cell
    middle: str
    modules: int


def overlaps(run: Run, updates: pd.DataFrame) -> list[Overlap]:
    """Every pair that was measured, in training order; `updates` are the run's rows."""
    stages = {stage.node: stage for stage in run.stages}
    rows = updates[updates["metric"] == METRIC]
    pairs: dict[tuple[str, str], dict[Any, Any]] = {}
    for row in rows.to_dict("records"):
        pairs[str(row["other_update"]), str(row["update"])] = row
    found = [
        _overlap(stages[earlier], stages[later], row)
        for (earlier, later), row in pairs.items()
        if earlier in stages and later in stages
    ]
    return sorted(found, key=lambda pair: (pair.later.index, pair.earlier.index))


def overlap_heatmap(found: Sequence[Overlap]) -> Figure:
    """Later stages down, earlier ones across; the pale middle of the colours is chance."""
    laters, earliers = (
        sorted({getattr(pair, side) for pair in found}, key=lambda stage: stage.index) for side in ("later", "earlier")
    )
    cells = {(pair.later.index, pair.earlier.index): pair for pair in found}
    grid = [[cells.get((later.index, earlier.index)) for earlier in earliers] for later in laters]
    reach = max((abs(pair.excess.value) for pair in found if math.isfinite(pair.excess.value)), default=0.0) or 1.0
    values = [[pair.excess.value if pair else None for pair in row] for row in grid]
    across, down = ([escaped(stage.label) for stage in side] for side in (earliers, laters))
    hovers, texts = ([[show(pair) for pair in row] for row in grid] for show in (_hover, _text))
    heatmap = drawing.heatmap(values, across, down, hovers, style.DIVERGING) | drawing.printed(texts, -reach, reach)
    heatmap["hoverongaps"] = False
    xaxis = STAGE_AXIS | {"title": {"text": "Earlier stage"}, "showgrid": False}
    yaxis = {"autorange": "reversed", "showgrid": False, "type": "category", "title": {"text": "Later stage"}}
    return Figure([heatmap], drawing.layout(110 + 42 * len(laters), xaxis, yaxis, top=28))


def _overlap(earlier: Stage, later: Stage, row: dict[Any, Any]) -> Overlap:
    null, spread, z = (float(row.get(name, math.nan)) for name in ("null_value", "null_sd", "z"))
    show = partial(words.difference, digits=3)
    chance = words.number(null, 3) + (f" ± {words.number(spread, 2)}" if math.isfinite(spread) else "")
    low, high = (float(row.get(name, math.nan)) for name in ("lower_quartile", "upper_quartile"))
    middle = words.interval(low, high, partial(words.number, digits=3))
    excess, deviations = (number_cell(value, show=show) for value in (float(row["value"]), z))
    return Overlap(earlier, later, excess, Cell(null, chance), deviations, middle, int(row.get("modules", 0)))


def _text(pair: Overlap | None) -> str:
    return pair.excess.text if pair else ""


def _hover(pair: Overlap | None) -> str:
    if pair is None:
        return ""
    head = f"<b>{escaped(pair.earlier.label)}, then {escaped(pair.later.label)}</b>"
    middle = f"<br>middle half of {pair.modules} modules: {pair.middle}" if pair.middle else ""
    return f"{head}<br>excess overlap {pair.excess.text}<br>by chance {pair.chance.text}{middle}"
