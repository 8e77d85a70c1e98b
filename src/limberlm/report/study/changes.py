"""Changes between checkpoints at the one cell of each metric that was fixed in advance, found without searching."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from limberlm.analysis.direction import RANK
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell


@dataclass(frozen=True)
class Change:
    """A change of a metric: a ratio or a difference (`words.is_ratio`), bias-corrected, with its 95 % interval."""

    metric: str
    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is a value with an interval."""
        return not any(map(math.isnan, (self.value, self.low, self.high)))

    @property
    def found(self) -> bool:
        """Whether the interval is known and leaves out no change."""
        return self.known and not self.low <= words.no_change(self.metric) <= self.high

    @property
    def up(self) -> bool:
        """Whether it is a rise."""
        return self.value > words.no_change(self.metric)

    @property
    def size(self) -> float:
        """How far it is from no change, on the metric's scale."""
        if words.is_ratio(self.metric):
            return abs(math.log(self.value)) if self.value > 0 else math.nan
        return abs(self.value)

    @property
    def text(self) -> str:
        """The change as read."""
        return words.change(self.metric, self.value)

    @property
    def interval(self) -> str:
        """Its interval as read; empty if there is none."""
        return words.change_interval(self.metric, self.low, self.high)


def change_cell(change: Change | None, not_found: str = "no change found") -> Cell:
    """A change as a cell, which says so where none was found; a dash for None."""
    if change is None:
        return NOTHING
    remark = not_found if change.known and not change.found else ""
    return Cell(change.value, change.text, change.interval, remark, change.low, change.high)


class Changes:
    """The changes of a study's comparisons in the headline cells, by node, reference and metric."""

    def __init__(self, comparisons: pd.DataFrame) -> None:
        self._found: Mapping[tuple[str, str, str], Change] = dict(map(_entry, _headline_records(comparisons)))

    def get(self, node: str, against: str, metric: str = RANK) -> Change | None:
        """The change of a checkpoint against the base, the previous stage or its twin; None if there is none."""
        return self._found.get((node, against, metric))


def _headline_records(comparisons: pd.DataFrame) -> list[dict[Any, Any]]:
    found = comparisons[comparisons["headline"].astype(bool)]
    return found[["node", "against", "metric", "corrected", "low", "high"]].to_dict("records")


def _entry(row: Mapping[Any, Any]) -> tuple[tuple[str, str, str], Change]:
    change = Change(row["metric"], *(float(row[name]) for name in ("corrected", "low", "high")))
    return (str(row["node"]), str(row["against"]), row["metric"]), change
