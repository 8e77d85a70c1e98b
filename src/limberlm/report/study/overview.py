"""Every ordering under every arm, a row each: what stands at the end, over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limberlm.outcomes.table import outcome_row
from limberlm.report.cells import NOTHING, Cell, number_cell
from limberlm.report.study.chain_ends import End, Measure, end_cells, measured_only, tasks_of
from limberlm.report.study.data import ORDINARY, ReportData, Run

CAPTION = (
    "Each value is that of the chain's last checkpoint, averaged over training seeds; under it the 95 % interval over "
    "seeds (Student's, with n seeds; none for one seed). Effective rank: mean of logarithms. ACC: accuracy on the "
    "tasks that the chain trains. BWT: accuracy on them now minus right after their stage, the last one left out. "
    "OOD: on the tasks' out-of-domain splits. Plasticity: loss on a future task after a fixed budget, lower is "
    "better. ECE: calibration error, lower is better, biased upwards. Differences between rows are not tested here: "
    "rows of one seed share data, starts and often nodes, so their intervals say little about whether they differ."
)


@dataclass(frozen=True)
class Line:
    """One ordering under one arm: a cell per measure, and how many seeds each is a mean of.

    `seeds` are its seeds, each with the place of its run among those shown, None for one that is not; `finished` says
    how many have their last checkpoint.
    """

    chain: str
    ordering: str
    arm: str
    finished: int
    seeds: tuple[tuple[int, int | None], ...]
    cells: tuple[Cell, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Overview:
    """The lines of a study in its own order, and what their cells measure."""

    measures: tuple[Measure, ...]
    lines: tuple[Line, ...]

    @property
    def has_arms(self) -> bool:
        """Whether there is more than one arm."""
        return {line.arm for line in self.lines} != {ORDINARY}


def overview(data: ReportData) -> Overview:
    """The overview of a study's runs; a chain that is not finished counts among no values."""
    places = {run.key: place for place, run in enumerate(data.shown_runs)}
    groups: dict[str, list[Run]] = {}
    for run in data.runs:
        groups.setdefault(run.chain, []).append(run)
    found = [
        [
            end_cells(data, End(run.key, run.stages[-1].node, tasks_of(data, run)))
            for run in group
            if run.is_finished(data)
        ]
        for group in groups.values()
    ]
    shown = measured_only(data, [cells for each in found for cells in each])
    lines = []
    for group, ends in zip(groups.values(), found, strict=True):
        values = [[end[each.name].value for end in ends if math.isfinite(end[each.name].value)] for each in shown]
        cells = tuple(map(_over_seeds, shown, values))
        seeds = tuple((run.seed, places.get(run.key)) for run in group)
        lines.append(
            Line(group[0].chain, group[0].ordering, group[0].arm, len(ends), seeds, cells, tuple(map(len, values)))
        )
    return Overview(shown, tuple(lines))


def balance_tables(data: ReportData) -> dict[str, Any] | None:
    """The plan's position and carry-over tables as the page shows them; None without more than one stage."""
    position, carry_over = data.balance.get("position", {}), data.balance.get("carry_over", {})
    if len(position) < 2:
        return None
    verdicts = [
        f"{what} {'balanced' if data.balance[name] else 'not balanced'}"
        for what, name in (("places are", "positions_balanced"), ("what follows what is", "carry_over_balanced"))
    ]
    return {
        "sentence": f"Among the stages that move, {' and '.join(verdicts)}.",
        "places": range(1, 1 + max(map(len, position.values()))),
        "position": list(position.items()),
        "carry_over": [(stage, list(counts.values())) for stage, counts in carry_over.items()],
    }


def _over_seeds(measure: Measure, values: Sequence[float]) -> Cell:
    if not values:
        return NOTHING
    there, back = (np.log, np.exp) if measure.scale == "log" else (float, float)
    row = outcome_row("", "", [float(there(value)) for value in values])
    remark = "one seed" if len(values) == 1 else f"n = {len(values)}"
    value, low, high = (float(back(row[name])) for name in ("value", "low", "high"))
    return number_cell(value, low, high, show=measure.show, remark=remark)
