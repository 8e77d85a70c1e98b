"""A run directory opened to run in: which study it belongs to, and who else is at work in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from limberlm.errors import UserError
from limberlm.files import OUT_THERE, PARTIAL, refuse_address, write_text
from limberlm.study.settings.config import StudySettings, load_settings
from limberlm.study.settings.resolve import as_yaml
from limberlm.study.store.remote import Remote
from limberlm.study.store.store import Store

LOCK = ".lock"


@contextmanager
def open_run(root: Path, settings: StudySettings, plan: str, remote: Remote | None = None) -> Iterator[Store]:
    """A run directory with `study.yaml` and `plan.json` as given, for any number of runners of the same plan.

    Every runner holds a shared lock; the one that is alone may clear up and write the two files. What is sealed in it
    goes to `remote` too.

    Raises:
        UserError: the folder is an address, cannot be written, holds other things, belongs to another study, or is at
            this moment run with other settings.

    """
    refuse_address(root, "the run directory", OUT_THERE)
    _refuse_foreign(root, settings)
    store = Store(root, remote)
    try:
        store.nodes.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); choose another --out") from error
    with lock:
        if _alone(lock):
            store.remove_leftovers()
            write_text(root / "study.yaml", as_yaml(settings))
            write_text(root / "plan.json", plan)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if (root / "plan.json").read_text() != plan or (root / "study.yaml").read_text() != as_yaml(settings):
            raise UserError(f"{root}: is being run with other settings at this moment; wait, or choose another --out")
        yield store


def _alone(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _refuse_foreign(root: Path, settings: StudySettings) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file; choose a folder with --out")
    recorded = root / "study.yaml"
    if recorded.is_file():
        owner = load_settings(recorded).name
        if owner != settings.name:
            raise UserError(f'{root}: belongs to the study "{owner}", not "{settings.name}"; choose another --out')
    elif root.is_dir() and any(not _ours(entry.name) for entry in root.iterdir()):
        raise UserError(f"{root}: holds other files and no study; choose an empty folder with --out")


def _ours(name: str) -> bool:
    """Whether a run that was killed before it wrote `study.yaml` may have left something of this name."""
    return name in (LOCK, "nodes", "leases") or name.endswith(PARTIAL)
