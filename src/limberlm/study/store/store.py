"""The store: a run directory whose nodes, and whose parts of nodes, exist only once their COMPLETE record does."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from limberlm.errors import UserError
from limberlm.files import PARTIAL, file_digest, known_digest, read_record, remove_drafts, sync, write_text
from limberlm.study.store.names import NODE_ID

if TYPE_CHECKING:
    from limberlm.study.store.remote import Remote

PLAN = "plan.json"
COMPLETE = "COMPLETE"
FAILED = ".failed.json"

Publishing = Callable[[], AbstractContextManager[None]]
"""Entered while a finished folder is put in its place; raises where this process may not."""


@dataclass(frozen=True)
class Store:
    """A run directory: `study.yaml`, `plan.json`, and `nodes/` with a folder per node and, in it, one per part.

    With `remote`, whatever is sealed in it goes there too, at once.
    """

    root: Path
    remote: Remote | None = None

    @property
    def nodes(self) -> Path:
        """Where the nodes are."""
        return self.root / "nodes"

    def node(self, identity: str) -> Path:
        """A node's folder, whether or not it exists."""
        return self.nodes / identity

    def part(self, identity: str, name: str) -> Path:
        """The folder of a node's part, whether or not it exists."""
        return self.node(identity) / name

    def names(self) -> set[str]:
        """What lies where the nodes are: folders, and records of failures."""
        with suppress(FileNotFoundError):
            return set(os.listdir(self.nodes))
        return set()

    def is_complete(self, identity: str) -> bool:
        """Whether a node is there: what is measured of it may still be missing."""
        return (self.node(identity) / COMPLETE).is_file()

    def sealed(self, name: str) -> dict[str, Any] | None:
        """The record of a finished node (`ID`) or part (`ID/PART`); None where there is none.

        Raises:
            UserError: it cannot be read.

        """
        record = self.nodes / name / COMPLETE
        return self._record(record) if record.is_file() else None

    def digests(self, identity: str) -> dict[str, str]:
        """The digest of every file of a finished node, parts aside, as recorded.

        Raises:
            UserError: the record cannot be read.

        """
        return dict(self._record(self.node(identity) / COMPLETE)["digests"])

    def part_identity(self, identity: str, name: str) -> str | None:
        """The hash of what determined a finished part; None where there is no part."""
        record = self.part(identity, name) / COMPLETE
        return str(self._record(record).get("identity")) if record.is_file() else None

    def part_digests(self, identity: str, name: str) -> dict[str, str]:
        """The digest of every file of a finished part, as recorded."""
        return dict(self._record(self.part(identity, name) / COMPLETE)["digests"])

    def seconds(self, identity: str) -> float | None:
        """How long a finished node took to make, without its parts."""
        record = self.node(identity) / COMPLETE
        return self._record(record).get("seconds") if record.is_file() else None

    def checked(self, folder: Path, *names: str) -> Path:
        """The folder of a finished node or part, once some of its files are found as they were written.

        Raises:
            UserError: one of them is not.

        """
        digests = self._record(folder / COMPLETE)["digests"]
        for name in names:
            with suppress(OSError):
                if known_digest(folder / name) == digests.get(name):
                    continue
            raise UserError(f"{folder / name}: not as the run wrote it; remove {folder} and run the study again")
        return folder

    def _record(self, path: Path) -> dict[str, Any]:
        try:
            state = path.stat()
            return dict(_record_in_state(path, state.st_ino, state.st_size, state.st_mtime_ns))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a readable record; delete {path.parent.name} and run again") from error

    @contextmanager
    def writing(self, identity: str, *, timed: bool = True, publishing: Publishing = nullcontext) -> Iterator[Path]:
        """A scratch folder that becomes the node when the block ends without an error, and is removed otherwise.

        Parts of a node that was there before stay. `timed`: the record holds the seconds it took, and so differs from
        run to run.
        """
        with self._made(self.node(identity), {}, timed, publishing) as scratch:
            yield scratch

    @contextmanager
    def writing_part(
        self, identity: str, name: str, decided_by: str, *, publishing: Publishing = nullcontext
    ) -> Iterator[Path]:
        """As `writing`, for a part of a finished node; `decided_by` is the hash of what determines it."""
        with self._made(self.part(identity, name), {"identity": decided_by}, False, publishing) as scratch:
            yield scratch

    @contextmanager
    def _made(self, target: Path, record: dict[str, Any], timed: bool, publishing: Publishing) -> Iterator[Path]:
        for leftover in target.parent.glob(f"{target.name}.*{PARTIAL}"):
            shutil.rmtree(leftover, ignore_errors=True)
        began = time.monotonic()
        with _scratch(target) as scratch:
            yield scratch
            digests = {str(p.relative_to(scratch)): file_digest(p) for p in sorted(scratch.rglob("*")) if p.is_file()}
            seconds = {"seconds": round(time.monotonic() - began, 1)} if timed else {}
            write_text(scratch / COMPLETE, json.dumps({"digests": digests, **record, **seconds}, indent=2) + "\n")
            with publishing():
                _put_in_place(scratch, target)
        if self.remote is not None:
            self.remote.push(self, str(target.relative_to(self.nodes)))

    @contextmanager
    def receiving(self, name: str) -> Iterator[Path]:
        """A scratch folder that becomes a node or part made elsewhere, whose record it holds, when the block ends.

        Of several processes that receive the same one, the first puts it there.
        """
        target = self.nodes / name
        with _scratch(target) as scratch:
            yield scratch
            digests = read_record(scratch / COMPLETE)["digests"]
            with (self.root / ".receiving").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if (self.sealed(name) or {}).get("digests") != digests:
                    _put_in_place(scratch, target)

    def failure(self, job: str) -> str | None:
        """Why a job failed the last time; None if it did not."""
        try:
            return str(read_record(self.nodes / f"{job}{FAILED}")["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "the record of its failure cannot be read"

    def record_failure(self, job: str, error: str) -> None:
        """Remember why a job failed, so that it is not tried again unasked."""
        write_text(self.nodes / f"{job}{FAILED}", json.dumps({"error": error}) + "\n")

    def forget_failures(self, job: str = "*") -> None:
        """Let failed jobs, or one of them, be tried again."""
        for path in self.nodes.glob(f"{job}{FAILED}"):
            path.unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what an interrupted run left: scratch folders, and nodes and parts without a COMPLETE record."""
        remove_drafts(self.nodes)
        for folder in (path for path in self.nodes.glob("*/") if not path.is_symlink()):
            if (folder / COMPLETE).is_file():
                remove_drafts(folder)
            else:
                shutil.rmtree(folder)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which is removed at the end unless it was put in its place."""
    scratch = target.with_name(f"{target.name}.{uuid4().hex[:8]}{PARTIAL}")
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _put_in_place(scratch: Path, target: Path) -> None:
    """Put `scratch` where `target` is, whose parts stay."""
    for part in (p for p in target.glob("*") if (p / COMPLETE).is_file() and not (scratch / p.name).exists()):
        os.rename(part, scratch / part.name)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(scratch, target)
    sync(target.parent)


def planned_nodes(root: Path) -> dict[str, str | None]:
    """The nodes of a run directory's plan by id, with the node that each comes after; without all that settings need.

    Raises:
        UserError: the folder is no run directory, or its plan is damaged.

    """
    refuse_no_run(root)
    try:
        plan = read_record(root / PLAN)
        found = {str(node["id"]): node["parent"] for node in plan["nodes"]}
    except OSError as error:
        raise UserError(f"{root / PLAN}: cannot be read ({error.strerror}); give a folder made by limber run") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{root / PLAN}: damaged; run the study again, in a new --out") from None
    if astray := [name for name in found if not re.fullmatch(NODE_ID, name)]:
        raise UserError(f"{root / PLAN}: {astray[0]!r} is no node's name; run the study again, in a new --out")
    return found


def refuse_no_run(root: Path) -> None:
    """Refuse a folder that holds no study.

    Raises:
        UserError: it is no run directory.

    """
    if not (root / PLAN).is_file() or not (root / "study.yaml").is_file():
        raise UserError(f"{root}: not a run directory; give one made by limber run")


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


@lru_cache(maxsize=8192)  # what reads a run asks for each many times; of a far larger one not all are kept
def _record_in_state(path: Path, file: int, size: int, changed: int) -> dict[str, Any]:
    record = dict(read_record(path))
    dict(record["digests"])
    return record
