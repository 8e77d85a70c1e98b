"""A section of a whole study: a verdict in words, then why it is no more, then figures, then tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limberlm.report.cells import Cell
from limberlm.report.drawing import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its title, which is also its text alternative and names its CSV file."""

    title: str
    figure: Figure


@dataclass(frozen=True)
class Grid:
    """A table: the heads of the columns with names, those with numbers (head and note), and its rows."""

    title: str
    names: Sequence[str]
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[Sequence[str], Sequence[Cell]]]


@dataclass(frozen=True)
class Told:
    """What a section says and shows; `reasons` are what stands against reading more into it."""

    key: str
    title: str
    verdict: Sequence[str]
    reasons: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()
    caption: str = ""
    details: str = ""
