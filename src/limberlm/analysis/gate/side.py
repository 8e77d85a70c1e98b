"""One side of a gate: the geometry and the outcomes of a checkpoint, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from limberlm.analysis.gate.items import read_items
from limberlm.errors import UserError
from limberlm.files import content_digest
from limberlm.observe import Geometry

MANIFEST = "manifest.json"
_NODE = "node.json"


@dataclass(frozen=True, eq=False)
class Side:
    """A checkpoint as measured; what was not measured of it is None.

    `outcomes`: a row for each outcome, with `outcome, task, split, step, items, settings` and, where items have names,
    `names`.
    """

    name: str
    geometry: Geometry | None = None
    outcomes: pd.DataFrame | None = None

    def record(self) -> dict[str, Any]:
        """What it is, and digests of every number that can enter a verdict."""
        found: dict[str, Any] = {"name": self.name}
        if self.geometry is not None:
            manifest = self.geometry.manifest
            table = self.geometry.table.to_json(orient="split", double_precision=15)
            found |= {
                "checkpoint": manifest["checkpoint"],
                "probe": manifest["probe"]["digest"],
                "geometry": content_digest([manifest, table]),
            }
        if self.outcomes is not None:
            found["outcomes"] = content_digest(self.outcomes.to_json(orient="split", double_precision=15))
        return found


def side_of(given: Side | Geometry | str | Path, outcomes: str | Path | pd.DataFrame | None = None) -> Side:
    """A side from a geometry, its saved folder, or the folder of a study's node; with outcomes from elsewhere if given.

    Raises:
        UserError: there is nothing there, it is something else, or it is half-written; names the file.
    """
    if isinstance(given, Side):
        side = given
    elif isinstance(given, Geometry):
        side = Side(str(given.manifest["checkpoint"].get("model")), given)
    else:
        side = _of_folder(Path(given))
    if outcomes is None:
        return side
    return replace(side, outcomes=outcomes if isinstance(outcomes, pd.DataFrame) else read_items(Path(outcomes)))


def sides_of(places: Sequence[str | Path | Geometry]) -> list[Side]:
    """The sides at these places, of which a folder of geometries stands for all of them.

    Raises:
        UserError: as in `side_of`.
    """
    found: list[Side] = []
    for place in places:
        inner = sorted(Path(place).glob(f"*/{MANIFEST}")) if isinstance(place, str | Path) else []
        found += [side_of(path.parent) for path in inner] or [side_of(place)]
    return found


def _of_folder(folder: Path) -> Side:
    if not folder.exists():
        raise UserError(f"{folder}: there is no such folder; give one written by `limber measure`, or a study's node")
    if (folder / _NODE).is_file():
        return _of_node(folder)
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder}: is neither a geometry nor a study's node; {MANIFEST} and {_NODE} are not there")
    return Side(str(folder), Geometry.load(folder))


def _of_node(folder: Path) -> Side:
    from limberlm.study.store.names import GEOMETRY, OUTCOMES
    from limberlm.study.store.store import Store

    place = folder.resolve()
    store = Store(place.parent.parent)
    if not store.is_complete(place.name):
        raise UserError(f"{folder}: the node is not finished; run the study again")
    parts = sorted(path.parent for path in place.glob(f"*/{OUTCOMES}"))
    tables = [pd.read_parquet(store.checked(part, OUTCOMES) / OUTCOMES) for part in parts]
    measured = (place / GEOMETRY / GEOMETRY / MANIFEST).is_file()
    geometry = Geometry.load(place / GEOMETRY / GEOMETRY) if measured else None
    return Side(str(folder), geometry, pd.concat(tables, ignore_index=True) if tables else None)
