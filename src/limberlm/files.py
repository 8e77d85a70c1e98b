"""Files and folders that are there whole or not at all, and digests of what they hold."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from limberlm.errors import UserError, storage_problem

LONGEST = 2**28
"""Bytes of a file of records, such as a manifest or a plan: a study of ten thousand nodes has a tenth of it."""

_ADDRESS = re.compile("[a-zA-Z][a-zA-Z0-9+.-]+:/")  # a Path has lost the second stroke

PARTIAL = ".partial"
"""How the names of drafts end, so that whoever finds one that was left behind knows it for what it is."""


COPIED = "give a path: copy it here, or mount that storage (a model or data set of the hub: owner/name)"
OUT_THERE = "give a folder of this machine, and the address as --store"
"""What to do instead, for what is read and for a run directory."""


def refuse_address(place: str | Path, where: str = "", instead: str = COPIED) -> None:
    """Refuse an address such as `s3://bucket/run`: a path would take it for a folder of this machine.

    Args:
        place: what was given for a file or folder.
        where: the option or setting that it was given for.
        instead: what to do.

    Raises:
        UserError: it is one; says what to do.

    >>> refuse_address("runs/first"), refuse_address("owner/name"), refuse_address("testbed:arithmetic")
    (None, None, None)
    """
    if _ADDRESS.match(str(place)):
        raise UserError(f"{where}{': ' if where else ''}{place}: is an address; {instead}")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft that takes the place of `path` when the block ends without an error, and is removed otherwise.

    Raises:
        UserError: it cannot be written there; says what to do.
    """
    draft = _draft(path)
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            sync(draft)
            os.replace(draft, path)
            sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` when the block ends without an error, and is removed otherwise.

    Raises:
        UserError: it cannot be written there; says what to do.
    """
    draft, old = _draft(path), _draft(path)
    with _told(path):
        try:
            draft.mkdir(parents=True)
            yield draft
            for part in draft.rglob("*"):
                sync(part)
            _replace(path, draft, old)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _replace(path: Path, draft: Path, old: Path) -> None:
    """Put `draft` where `path` is, and what was there at `old`; of several who do so at once the last one stays."""
    try:
        while draft.exists():
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                path.rename(old)
            try:
                draft.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    except BaseException:
        with suppress(OSError):
            old.rename(path)  # stopped between the two renames
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either whole or not there, whatever happens.

    Raises:
        UserError: it cannot be written there; says what to do.
    """
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def plain_name(name: str, otherwise: str) -> str:
    """A name of letters, digits, dots, dashes and underscores, as near to `name` as there is.

    >>> plain_name("my base (2)", "series"), plain_name("_", "series")
    ('my-base--2-', 'series')
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or otherwise


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that lie in a folder: whoever made them was killed. Only where nobody else is writing."""
    for draft in folder.glob(f"*{PARTIAL}"):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The text of a file of records, UTF-8 and at most `LONGEST` bytes.

    Raises:
        OSError: it cannot be read, or is a folder, pipe or device.
        ValueError: it is longer, or no UTF-8.
    """
    _refuse_no_file(path)
    if path.stat().st_size > LONGEST:
        raise ValueError(f"longer than {LONGEST >> 20} MiB, as no such file is")
    with path.open("rb") as file:
        return file.read(LONGEST).decode("utf-8")


def read_record(path: Path) -> Any:
    """What a file holds as JSON. Raises as `read_text`, and ValueError where it is no JSON."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse_no_file(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "a folder, pipe or device, not a file", str(path))


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder, of which some may come and go meanwhile."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(place, name)).st_size
    return size


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's bytes, 128 bits, in hexadecimal.

    Raises:
        OSError: it cannot be read, or is a folder, pipe or device.
    """
    _refuse_no_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def known_digest(path: Path) -> str:
    """`file_digest`, taken again only where the file's size or time of change is another."""
    state = path.stat()
    return _digest_in_state(path, state.st_size, state.st_mtime_ns)


@cache
def _digest_in_state(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


def content_digest(content: Any, bits: int = 128) -> str:
    """BLAKE2b of what JSON can hold, in hexadecimal: the order of a mapping's keys does not enter.

    >>> content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=bits // 8).hexdigest()


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}{PARTIAL}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({storage_problem(error) or error})") from error
