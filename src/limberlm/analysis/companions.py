"""Whether another number moves along: over each stretch of a curve, its paired change, and where it turns itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np

from limberlm.analysis.curve import Curve
from limberlm.analysis.search import Found, search
from limberlm.analysis.trial import Rules

Follows = Literal["yes", "lagged", "no"]


@dataclass(frozen=True)
class Companion:
    """Another number over one stretch.

    Attributes: `change`, its value at the end minus that at the start, with the interval `low`, `high` paired over the
    probe blocks (NaN without blocks); `moved`, whether it changed the expected way, by an interval that excludes 0
    where there is one; `follows`, whether it moves along, turning points included.
    """

    change: float
    low: float
    high: float
    moved: bool
    follows: Follows


def companions(found: Found, other: Curve, rules: Rules, *, mirrored: bool) -> tuple[list[Companion], Found]:
    """`other`, on the checkpoints of the curve that gave `found`, over each stretch; and its own stretches.

    It follows a stretch ("yes") if it changes the same way over it (the opposite way if `mirrored`), with a paired
    interval that excludes 0, and a stretch of its own in that way has its ends where this one has (intervals
    overlap). "lagged" if there is such a stretch, overlapping this one, but elsewhere. Else "no". Our choice.
    """
    own = search(other, rules)
    return [_companion(found, number, other, own, mirrored) for number in range(len(found.stretches))], own


def _companion(found: Found, number: int, other: Curve, own: Found, mirrored: bool) -> Companion:
    start, end = (found.kept[found.turns[number + side]] for side in (0, 1))
    change, estimate = float(other.y[end] - other.y[start]), other.change(start, end)
    low, high = (estimate.low, estimate.high) if estimate else (nan, nan)
    rises = found.stretches[number].rises != mirrored
    moved = (change if estimate is None else low) > 0 if rises else (change if estimate is None else high) < 0
    match = _nearest(found, number, own, rises)
    follows: Follows = "no"
    if match is not None:
        together = all(_meet(found, number + side, own, match + side) for side in (0, 1))
        follows = "yes" if moved and together else "lagged"
    return Companion(change, low, high, moved, follows)


def _nearest(found: Found, number: int, own: Found, rises: bool) -> int | None:
    """The stretch of `own` in that direction which shares most of x with stretch `number` of `found`."""
    start, end = (found.curve.x[found.turns[number + side]] for side in (0, 1))
    shared = [
        min(end, own.curve.x[own.turns[i + 1]]) - max(start, own.curve.x[own.turns[i]])
        if stretch.rises == rises
        else -np.inf
        for i, stretch in enumerate(own.stretches)
    ]
    return int(np.argmax(shared)) if shared and max(shared) > 0 else None


def _meet(found: Found, turn: int, own: Found, own_turn: int) -> bool:
    """Whether the intervals of two ends of stretches overlap, or both are the same end of the series."""
    if turn == own_turn == 0 or (turn, own_turn) == (len(found.turns) - 1, len(own.turns) - 1):
        return True
    (early, late), (own_early, own_late) = _interval(found, turn), _interval(own, own_turn)
    return early <= own_late and own_early <= late


def _interval(found: Found, turn: int) -> Sequence[float]:
    return [float(found.curve.steps[places[turn]]) for places in (found.early, found.late)]
