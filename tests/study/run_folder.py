"""What is in a run directory, for comparison."""

from __future__ import annotations

from pathlib import Path

from limberlm.study.store.store import Store


def digests(root: Path) -> dict[str, dict[str, str]]:
    """The digests of every node and every part."""
    store = Store(root)
    found = {}
    for folder in sorted(path for path in store.nodes.iterdir() if path.is_dir()):
        found[folder.name] = store.digests(folder.name)
        for record in folder.glob("*/COMPLETE"):
            part = record.parent.name
            found[f"{folder.name}/{part}"] = store.part_digests(folder.name, part)
    return found
