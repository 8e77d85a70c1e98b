"""A run in a process of its own, and what is in its directory, for comparison."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from limberlm.study.store.store import Store

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(study: Path, out: Path, *more: str) -> list[str]:
    """The command that runs a study, quietly."""
    return [sys.executable, "-m", "limberlm", "run", str(study), "--out", str(out), "--quiet", *more]


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
