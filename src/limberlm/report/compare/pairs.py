"""Which numbers of two studies can be compared, and how far they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from limberlm.analysis.arms import GEOMETRY, QUANTITIES, Quantity, ends, paired
from limberlm.observe import Geometry
from limberlm.study import Results
from limberlm.study.store.names import GEOMETRY as GEOMETRY_PART

SAME = 1e-6
"""How far the base's number may differ between studies, relatively, to count as the same measurement: our choice."""
KEYS = ["ordering", "arm", "seed"]


@dataclass(frozen=True)
class Side:
    """One of the two studies: its name, its base's node, the digest of its probe set, and the ends of its chains."""

    name: str
    base: str
    probe: str
    ends: pd.DataFrame


@dataclass(frozen=True)
class Line:
    """One quantity of one ordering and arm (or of all that both have): each study's mean, and b minus a.

    `a`, `b` and `difference` have `effect`, `low`, `high`, `pairs` as from `analysis.arms.paired`; the difference is
    in the quantity's unit, per cent for a change in per cent. None where it cannot be taken.
    """

    quantity: Quantity
    ordering: str
    arm: str
    a: dict[str, float]
    b: dict[str, float]
    difference: dict[str, float] | None


def read_side(folder: Path) -> Side:
    """A run directory as one side.

    Raises:
        UserError: it is no run directory, or no chain of it is finished and measured.

    """
    results = Results(folder)
    base = results.chains[0].nodes[0]
    found = ends(results)
    probe = Geometry.load(results.store.part(base, GEOMETRY_PART) / GEOMETRY_PART).manifest["probe"]["digest"]
    return Side(folder.resolve().name, base, str(probe), found)


def refusals(a: Side, b: Side) -> dict[str, str]:
    """For each quantity whose difference means nothing, why."""
    if a.base != b.base:
        return {quantity.name: "they start from different bases" for quantity in QUANTITIES}
    found = {}
    if a.probe != b.probe:
        found[GEOMETRY.name] = "geometry was read on different probe sets"
    shared = _shared(a, b)
    for quantity in QUANTITIES:
        column = f"base_{quantity.name}"
        if quantity.name not in found and not _alike(shared[f"{column}_a"], shared[f"{column}_b"]):
            found[quantity.name] = "the same base scores differently: other items, or another protocol"
    return found


def lines(a: Side, b: Side) -> Iterator[Line]:
    """Every quantity of every ordering and arm that both have; first, by arm, over all orderings that both have."""
    shared, why = _shared(a, b), refusals(a, b)
    for quantity in QUANTITIES:
        for arm, of_arm in shared.groupby("arm", sort=False):
            parts = [("all shared", of_arm), *of_arm.groupby("ordering", sort=False)]
            for ordering, own in parts if len(parts) > 2 else parts[1:]:
                if own[[f"{quantity.name}_a", f"{quantity.name}_b"]].notna().all(axis=1).any():
                    yield _line(quantity, str(ordering), str(arm), own, quantity.name not in why)


def only(side: Side, other: Side) -> list[str]:
    """The orderings under arms that only this side has."""
    own, others = ({tuple(key) for key in each.ends[["ordering", "arm"]].to_numpy()} for each in (side, other))
    return sorted(f"{ordering} [{arm}]" for ordering, arm in own - others)


def shared_chains(a: Side, b: Side) -> int:
    """How many chains (ordering, arm and seed) both have."""
    return len(_shared(a, b))


def _line(quantity: Quantity, ordering: str, arm: str, own: pd.DataFrame, comparable: bool) -> Line:
    ends_of = [own[f"{quantity.name}_{side}"].to_numpy(float) for side in "ab"]
    there = np.isfinite(ends_of[0]) & np.isfinite(ends_of[1])
    one, two = (values[there] for values in ends_of)
    apart = 100 * (np.log(two) - np.log(one)) if quantity.scale == "percent" else two - one
    a, b, difference = ({**paired(values), "pairs": len(values)} for values in (one, two, apart))
    return Line(quantity, ordering, arm, a, b, difference if comparable else None)


def _shared(a: Side, b: Side) -> pd.DataFrame:
    return a.ends.merge(b.ends, on=KEYS, suffixes=("_a", "_b"))


def _alike(one: pd.Series, two: pd.Series) -> bool:
    pairs = [(x, y) for x, y in zip(one, two, strict=True) if not (math.isnan(x) and math.isnan(y))]
    return all(abs(x - y) <= SAME * max(abs(x), abs(y)) for x, y in pairs)
