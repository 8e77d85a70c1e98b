"""The store: a run directory whose nodes exist only once their COMPLETE record does."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limberlm.errors import UserError
from limberlm.study.config import StudySettings, load_settings

COMPLETE = "COMPLETE"
PARTIAL = ".partial"


@dataclass(frozen=True)
class Store:
    """A run directory: `study.yaml`, `plan.json` and `nodes/`."""

    root: Path

    @property
    def nodes(self) -> Path:
        """Where the nodes are."""
        return self.root / "nodes"

    def node(self, identity: str) -> Path:
        """A node's folder, whether or not it exists."""
        return self.nodes / identity

    def is_complete(self, identity: str) -> bool:
        """Whether a node is finished."""
        return (self.node(identity) / COMPLETE).is_file()

    def digests(self, identity: str) -> dict[str, str]:
        """The digest of every file of a finished node, as recorded.

        Raises:
            UserError: the record cannot be read.

        """
        record = self.node(identity) / COMPLETE
        try:
            return dict(json.loads(record.read_text())["digests"])
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{record}: not a readable record; delete {record.parent.name} and run again") from error

    @contextmanager
    def writing(self, identity: str, *, timed: bool = True) -> Iterator[Path]:
        """A scratch folder that becomes the node when the block ends without an error, and is removed otherwise.

        `timed`: the record holds the seconds it took, and so differs from run to run.
        """
        scratch = self.nodes / (identity + PARTIAL)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        began = time.monotonic()
        try:
            yield scratch
            digests = {str(p.relative_to(scratch)): file_digest(p) for p in sorted(scratch.rglob("*")) if p.is_file()}
            seconds = {"seconds": round(time.monotonic() - began, 1)} if timed else {}
            write_durably(scratch / COMPLETE, json.dumps({"digests": digests, **seconds}, indent=2) + "\n")
            shutil.rmtree(self.node(identity), ignore_errors=True)
            os.rename(scratch, self.node(identity))
            _sync(self.nodes)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def remove_leftovers(self) -> None:
        """Remove what an interrupted run left: scratch folders, and nodes without a COMPLETE record."""
        for folder in self.nodes.iterdir() if self.nodes.is_dir() else ():
            if folder.is_dir() and not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)


@contextmanager
def open_store(root: Path, settings: StudySettings) -> Iterator[Store]:
    """A run directory, for one runner at a time.

    Raises:
        UserError: the folder cannot be written, holds other things, belongs to another study, or is being run already.

    """
    _refuse_foreign(root, settings)
    with locked(root, "study") as store:
        yield store


@contextmanager
def locked(root: Path, what: str) -> Iterator[Store]:
    """A folder with nodes, for one process at a time; `what` is made there, for the error message.

    Raises:
        UserError: the folder cannot be written, or another process is at work in it.

    """
    try:
        (root / "nodes").mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); choose another --out") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{root}: another run of this {what} is at work here; wait for it to end") from error
        yield Store(root)


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
    return name in (".lock", "nodes") or name.endswith(PARTIAL)


def write_durably(path: Path, text: str) -> None:
    """Write a file so that it is either whole or not there, whatever happens."""
    scratch = path.with_name(path.name + PARTIAL)
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    _sync(path.parent)


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 128 bits, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
