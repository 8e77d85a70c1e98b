"""What a section of the report is given and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limberlm.report.cells import Cell
from limberlm.report.drawing import Figure
from limberlm.report.trace.axis import Axis
from limberlm.report.trace.data import Stage, Trace
from limberlm.report.trace.marks import Marks
from limberlm.report.trace.panels import Panel, in_words, stack


@dataclass(frozen=True)
class View:
    """One stage of the series, as every trace has it. `mean`: the seeds agree, so that their mean may be drawn."""

    runs: Sequence[Trace]
    stages: Sequence[Stage]
    marks: Marks
    mean: bool

    @property
    def axis(self) -> Axis:
        """The axis that holds the checkpoints of all traces."""
        values = [t for stage in self.stages for t in stage.checkpoints["t"]]
        return Axis.of(values, self.stages[0].axis.column)


@dataclass(frozen=True)
class Picture:
    """A figure with the words for those who do not see it."""

    figure: Figure
    alt: str
    title: str = ""


@dataclass(frozen=True)
class Grid:
    """A small table: its heads and rows, the first cell of a row its name."""

    heads: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    title: str = ""
    first: str = ""


@dataclass(frozen=True)
class Part:
    """What one section shows of one stage. All empty: the section says what is missing."""

    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.pictures or self.grids)


def pictured(
    view: View, panels: Sequence[Panel], what: str, *, title: str = "", explained: bool = False
) -> list[Picture]:
    """One figure of panels; none if no panel has a value."""
    figure = stack(panels, view.axis, view.marks, explained=explained)
    return [] if figure is None else [Picture(figure, f"{what}. {in_words(panels, view.axis, view.marks)}", title)]
