"""Stages after pretraining: what each changed from its start to its end, paired."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from limberlm.analysis import Direction, stage_direction
from limberlm.analysis.direction import ALPHA, HEAD_REMOVED, MARGIN, RANK, Change
from limberlm.errors import UserError
from limberlm.observe import Geometry
from limberlm.outcomes.diversity import paired_pass_at_k
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, number_cell
from limberlm.report.trace.data import OUTCOMES, TRACE, Stage, Trace

TRY = re.compile(r"pass@(\d+)")
WANTED = (1, 4, 16, 64, 256)
"""Of pass@k the ks shown, the paper's; where none but 1 was measured, all that were."""

STARTS = ("base", "pretrain", "train")
"""How the names of stages begin that others start from, if they come first."""

COLUMNS = (
    ("Effective rank", "change"),
    ("Direction", f"margin ±{MARGIN:g}"),
    ("alpha-ReQ", "difference"),
    ("Without the top 8", "effective rank, change"),
)
Place = tuple[str, int]
"""A checkpoint by its stage and step."""


@dataclass(frozen=True)
class Chain:
    """The stages of one trace that have a start to be compared with, and the stage before the first of them."""

    trace: Trace
    before: Stage | None
    stages: list[Stage]

    @classmethod
    def of(cls, trace: Trace) -> Chain | None:
        """None where the series has one stage only."""
        stages = trace.stages()
        if len(stages) < 2:
            return None
        first = stages[0]
        is_start = len(first) == 1 or first.name.startswith(STARTS)
        return cls(trace, first, stages[1:]) if is_start else cls(trace, None, stages)

    @property
    def all(self) -> list[Stage]:
        """The stages, the one before them first."""
        return [*([self.before] if self.before else []), *self.stages]

    def path(self, number: int) -> list[Place]:
        """The checkpoints of a stage from the end of the one before, or its own step 0; empty if neither was read."""
        stage, earlier = self.stages[number], self.stages[number - 1] if number else self.before
        own = [(stage.name, int(step)) for step in stage.checkpoints["step"]]
        if earlier is not None:
            return [(earlier.name, int(earlier.checkpoints["step"].max())), *own]
        return own if own[0][1] == 0 and len(own) > 1 else []

    @cached_property
    def directions(self) -> list[Direction | None]:
        """What each stage did; None where its start, the effective rank or the blocks were not read."""
        return [self._direction(number) for number in range(len(self.stages))]

    def _direction(self, number: int) -> Direction | None:
        path, (site, convention) = self.path(number), self.trace.place()
        if not path or any(place not in self._geometries for place in path):
            return None
        start, *between, end = (self._geometries[place] for place in path)
        try:
            return stage_direction(start, end, between, site=site, convention=convention)
        except (UserError, ValueError):  # the rank is undefined there, or read on other blocks
            return None

    @cached_property
    def _geometries(self) -> dict[Place, Geometry]:
        """The compared metrics of every checkpoint. One trace has one probe, so nothing of a manifest can differ."""
        table = self.trace.geometry
        site, convention = self.trace.place()
        here = (table["site"] == site) & (table["convention"] == convention)
        rows = self.trace.heavy(TRACE, here & table["metric"].isin([RANK, ALPHA, HEAD_REMOVED]))
        if "replicates" not in rows:
            return {}
        manifest = {"probe": {"digest": ""}, "checkpoint": {}, "convention": {}}
        found = rows.assign(domain="all").groupby(["stage", "step"], sort=False)
        return {(str(stage), int(str(step))): Geometry(own, manifest, {}) for (stage, step), own in found}


def columns(chain: Chain) -> list[tuple[str, str]]:
    """The heads of the table of changes: what, and in which unit."""
    return [*COLUMNS, *((name, "points") for name in tried(chain.trace))]


def changes(chain: Chain) -> list[tuple[str, list[Cell]]]:
    """For every stage its name and a cell for each of `columns`."""
    return [(stage.name, _cells(chain, number)) for number, stage in enumerate(chain.stages)]


def _cells(chain: Chain, number: int) -> list[Cell]:
    found, path = chain.directions[number], chain.path(number)
    cells = [NOTHING] * len(COLUMNS)
    if found is not None:
        way = Cell(math.nan, found.word, "", "monotone" if found.rank.monotone else "")
        cells = [_cell(found.rank), way, _cell(found.alpha), _cell(found.head_removed)]
    return cells + [_tries(chain.trace, name, path[0], path[-1]) if path else NOTHING for name in tried(chain.trace)]


def _cell(change: Change | None) -> Cell:
    """A change as a reader meets it: of ranks in per cent, of alpha as a difference."""
    if change is None or math.isnan(change.change):
        return NOTHING
    shown = math.exp if words.is_ratio(change.metric) else float
    value, low, high = (shown(x) for x in (change.change, change.low, change.high))
    span = words.change_interval(change.metric, low, high)
    return Cell(value, words.change(change.metric, value), span, "", low, high)


def tried(trace: Trace) -> list[str]:
    """The names of the pass@k outcomes shown, by k."""
    there = sorted(int(found[1]) for name in set(trace.tables[OUTCOMES]["outcome"]) if (found := TRY.fullmatch(name)))
    wanted = [k for k in there if k in WANTED]
    return [f"pass@{k}" for k in (wanted if len(wanted) > 1 else there)]


def _tries(trace: Trace, outcome: str, start: Place, end: Place) -> Cell:
    """The change of pass@k, paired by problem: of the task with the most problems solved at the end, if of several."""
    table = trace.heavy(OUTCOMES, trace.tables[OUTCOMES]["outcome"] == outcome)
    if "items" not in table or "settings" not in table:
        return NOTHING
    before, after = (_rows(table, place) for place in (start, end))
    try:
        rows = paired_pass_at_k(before, after)
    except UserError:  # sampled in different ways, or at one end only
        return NOTHING
    mean = math.fsum(row["value"] for row in rows) / len(rows)
    if len(rows) > 1:
        return number_cell(mean, show=words.points, remark=f"mean of {len(rows)} tasks")
    return number_cell(mean, rows[0]["low"], rows[0]["high"], show=words.points, remark=str(rows[0]["task"]))


def _rows(table: pd.DataFrame, place: Place) -> list[dict[str, object]]:
    own = table[(table["stage"] == place[0]) & (table["step"] == place[1])]
    return [{str(name): value for name, value in row.items()} for row in own.to_dict("records")]
