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
        self._columns = {name: rows[name].tolist() for name in KEPT if name in rows.columns}
        names = (self._columns[name] for name in ("stage_index", "outcome", "task", "split"))
        places = list(zip(*names, range(len(rows)), strict=True))[::-1]  # of several the first is looked up
        self._any = {key[:3]: key[4] for key in places}
        self._of_split = {key[:4]: key[4] for key in places}

    def row(self, stage: Stage, outcome: str, task: str, split: str | None = None) -> Row | None:
        """The row of an outcome of a task at a stage, on any split where none is named; None if there is none."""
        key = (stage.index, outcome, task)
        place = self._any.get(key) if split is None else self._of_split.get((*key, split))
        return None if place is None else {name: values[place] for name, values in self._columns.items()}

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
