"""Making room: what of a run directory can be made again without training, or belongs to no plan any more."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from limberlm.files import folder_size
from limberlm.study.results.results import Results
from limberlm.study.store.names import MERGED
from limberlm.study.store.store import COMPLETE, FAILED


@dataclass(frozen=True)
class Removable:
    """A folder that can go: why, and the bytes it takes."""

    folder: Path
    why: str
    size: int


def removable(results: Results, *, unplanned: bool = False) -> list[Removable]:
    """Merged weights, which are the base plus adapters that stay; with `unplanned` the nodes of former settings too."""
    found = []
    for folder in sorted(path for path in results.store.nodes.iterdir() if _is_ours(path)):
        if unplanned and folder.name not in results.nodes:
            found.append(Removable(folder, "not in the plan", folder_size(folder)))
        elif (folder / MERGED).is_dir() and not (folder / MERGED).is_symlink():
            found.append(Removable(folder / MERGED, "can be merged again", folder_size(folder / MERGED)))
    return found


def _is_ours(node: Path) -> bool:
    """Whether a node is there; a link leads to somebody else's files."""
    return (node / COMPLETE).is_file() and not node.is_symlink()


def remove(found: list[Removable]) -> None:
    """Remove them, each node's record first, so that one half removed counts as not there."""
    for each in found:
        (each.folder / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(each.folder)
        for record in each.folder.parent.glob(f"{each.folder.name}.*{FAILED}"):
            record.unlink(missing_ok=True)
