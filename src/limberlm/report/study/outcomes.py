"""A run's outcomes by what they are of, found without searching."""

from __future__ import annotations

from typing import Any

import pandas as pd

from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, Show, row_cell
from limberlm.report.study.data import Stage

Row = dict[Any, Any]
KEPT = ("stage_index", "outcome", "task", "split", "value", "low", "high", "settings")


class Outcomes:
    """The rows of one run's outcomes; of several that are of the same, the first."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows: dict[tuple[int, str, str, str | None], Row] = {}
        names = [name for name in KEPT if name in rows.columns]
        for values in zip(*(rows[name].tolist() for name in names), strict=True):
            row = dict(zip(names, values, strict=True))
            place = (int(row["stage_index"]), str(row["outcome"]), str(row["task"]))
            self._rows.setdefault((*place, str(row["split"])), row)
            self._rows.setdefault((*place, None), row)

    def row(self, stage: Stage, outcome: str, task: str, split: str | None = None) -> Row | None:
        """The row of an outcome of a task at a stage, on any split where none is named; None if there is none."""
        return self._rows.get((stage.index, outcome, task, split))

    def cell(
        self,
        stage: Stage,
        outcome: str,
        task: str,
        split: str | None = None,
        show: Show = words.number,
    ) -> Cell:
        """The same as a cell; a dash if there is none, or no value."""
        row = self.row(stage, outcome, task, split)
        return NOTHING if row is None or pd.isna(row["value"]) else row_cell(row, show)
