"""What orderings differ in: a stage's place, its predecessor, two stages exchanged. Each is a contrast of orderings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limberlm.analysis.ordering.cells import Stages

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """An effect as weights of the orderings' values.

    Attributes:
        named: what it is of, columns of its table.
        weights: [orderings], summing to zero.
        confounded: the share of it (0 to 1) that the other descriptive factor accounts for in this design; at 1 the
            two cannot be told apart. NaN where there is no such question.

    """

    named: dict[str, Any]
    weights: Floats
    confounded: float


def moving(orderings: Sequence[Stages]) -> tuple[str, ...]:
    """The stages that come once in every ordering and not always in the same place."""
    stages = dict.fromkeys(stage for ordering in orderings for stage in ordering)
    once = [stage for stage in stages if all(ordering.count(stage) == 1 for ordering in orderings)]
    return tuple(stage for stage in once if len({ordering.index(stage) for ordering in orderings}) > 1)


def positions(orderings: Sequence[Stages]) -> Iterator[Contrast]:
    """Of each stage that moves, the least-squares slope of the value over its place: per place later."""
    other = _columns(_after(orderings).values())
    for stage, places in _places(orderings).items():
        centred = places - places.mean()
        yield Contrast({"stage": stage}, centred / (centred**2).sum(), _explained(places, other))


def predecessors(orderings: Sequence[Stages]) -> Iterator[Contrast]:
    """Of two stages that move, orderings with `stage` directly after `after` minus the orderings without that."""
    other = _columns(_dummies(orderings))
    for (before, stage), there in _after(orderings).items():
        if 0 < there.sum() < len(there):
            weights = there / there.sum() - (1 - there) / (1 - there).sum()
            yield Contrast({"stage": stage, "after": before}, weights, _explained(there, other))


def never_after(orderings: Sequence[Stages]) -> list[str]:
    """The pairs of stages that move, of which one never comes directly after the other."""
    return [f"{stage} after {before}" for (before, stage), there in _after(orderings).items() if not there.any()]


def commutators(orderings: Sequence[Stages]) -> Iterator[Contrast]:
    """R(first then second) - R(second then first), of each two stages that move.

    Over pairs of orderings that differ in nothing but these two neighbours exchanged (`matched`: how many pairs). A
    design that has no such pair (a Latin square) is left with all orderings in which the first comes before the second,
    minus all others: `matched` is 0, and the rest of the ordering is not the same on both sides.
    """
    index = {ordering: place for place, ordering in enumerate(orderings)}
    for first, second in combinations(moving(orderings), 2):
        weights, matched = np.zeros(len(orderings)), 0
        for ordering, place in index.items():
            swapped = _exchanged(ordering, first, second)
            if swapped in index:
                matched += 1
                weights[place] += 1
                weights[index[swapped]] -= 1
        if not matched:
            before = np.array([float(own.index(first) < own.index(second)) for own in orderings])
            if before.all() or not before.any():
                continue
            weights, matched = before / before.sum() - (1 - before) / (1 - before).sum(), 0
        named = {"first": first, "second": second, "matched": matched}
        yield Contrast(named, weights / max(matched, 1), float("nan"))


def _exchanged(ordering: Stages, first: str, second: str) -> Stages | None:
    """The ordering with `first` and the `second` directly after it exchanged; None if they do not stand so."""
    place = ordering.index(first)
    if ordering[place + 1 : place + 2] != (second,):
        return None
    return (*ordering[:place], second, first, *ordering[place + 2 :])


def _places(orderings: Sequence[Stages]) -> dict[str, Floats]:
    return {stage: np.array([float(own.index(stage)) for own in orderings]) for stage in moving(orderings)}


def _dummies(orderings: Sequence[Stages]) -> Iterator[Floats]:
    """For every stage that moves and every place, whether it stands there."""
    for places in _places(orderings).values():
        yield from (np.asarray(places == place, float) for place in np.unique(places))


def _after(orderings: Sequence[Stages]) -> dict[tuple[str, str], Floats]:
    neighbours = [set(pairwise(own)) for own in orderings]
    return {pair: np.array([float(pair in own) for own in neighbours]) for pair in permutations(moving(orderings), 2)}


def _columns(vectors: Any) -> Floats:
    return np.stack([vector - vector.mean() for vector in vectors], axis=1)


def _explained(vector: Floats, columns: Floats) -> float:
    """The share of a vector's squares about its mean that the columns account for."""
    centred = vector - vector.mean()
    fit = columns @ np.linalg.lstsq(columns, centred, rcond=None)[0]
    return float(min(max((fit @ fit) / (centred @ centred), 0.0), 1.0))
