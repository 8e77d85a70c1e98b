"""A row of the table: what is made, what is typed, and what the one line must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.world import World

Words = list[object] | Callable[[], object]
Make = Callable[[World, Path], Words]
"""Makes the files in a folder, and gives the words after `limber`; or a call, where no command reads such a file."""


@dataclass(frozen=True)
class Case:
    """`make` and, in `told`, what the line must hold: the file, field or value first."""

    make: Make
    told: tuple[str, ...]


def case(make: Make, *told: str) -> Case:
    """A row."""
    return Case(make, told)
