"""Rows of the acceptance table, and how they are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Got:
    """What came out, in words, and whether all of it is as expected; None where there is nothing to hold it against."""

    words: str
    met: bool | None = True


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes: `what` is checked; `expected`, with the tolerance; `tests`, as FILE::NAME below tests/; `got`, run to
    fill the table.
    """

    what: str
    expected: str
    tests: tuple[str, ...]
    got: Callable[[], Got]


def near(found: Sequence[float], expected: Sequence[float], tolerance: float, digits: int = 3) -> Got:
    """Values within an absolute tolerance of those expected, in order."""
    met = all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))
    return Got(", ".join(f"{value:.{digits}f}" for value in found), met)


def within(found: Sequence[float], relative: Sequence[tuple[float, float]], digits: int = 4) -> Got:
    """Values, each within (expected, relative tolerance)."""
    met = all(abs(value / expected - 1) <= share for value, (expected, share) in zip(found, relative, strict=True))
    return Got(", ".join(f"{value:.{digits}g}" for value in found), met)


def tiny(error: float, bound: float, what: str = "largest difference") -> Got:
    """An error that should be rounding."""
    return Got(f"{what} {error:.1e}" if error else f"{what} 0", error <= bound)


def both(*parts: Got) -> Got:
    """Several in one cell."""
    known = [part.met for part in parts if part.met is not None]
    return Got("; ".join(part.words for part in parts), all(known) if known else None)
