"""The versions of the file formats that this release writes, and what it does with files of other releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limberlm.errors import UserError
from limberlm.version import __version__

FORMATS: Mapping[str, int] = {
    "geometry": 1,
    "updates": 1,
    "folora": 1,
    "index": 1,
    "verdict": 1,
    "run": 1,
    "trace": 1,
    "corpus": 1,
}
"""The version of each format. It rises when a release writes what the one before could not read, and a reader of every
older version stays; `docs/reference/on_disk.md` says what each holds."""

FIELD = "format"
"""Where a file says its version."""

UNNUMBERED = ("run", "trace", "corpus")
"""Formats whose version 1 was written before they had a number."""


def check_format(kind: str, record: Any, place: object, otherwise: str) -> int:
    """The version that a record says it has.

    Args:
        kind: a key of `FORMATS`.
        record: what was read: a mapping, or it is refused.
        place: the file, for the message.
        otherwise: what to do with a file that no release can have written.

    Raises:
        UserError: a later release wrote it, or no release did.

    >>> check_format("geometry", {"format": 1}, "manifest.json", "measure again")
    1
    >>> check_format("geometry", {"format": 7}, "m.json", "measure again")
    Traceback (most recent call last):
        ...
    limberlm.errors.UserError: m.json: format 7 of a later limberlm, this one (...) reads up to 1; upgrade limberlm
    """
    unsaid = 1 if kind in UNNUMBERED else None
    found = record.get(FIELD, unsaid) if isinstance(record, Mapping) else None
    known = FORMATS[kind]
    if type(found) is int and found > known:
        reads = f"this one ({__version__}) reads up to {known}"
        raise UserError(f"{place}: format {found} of a later limberlm, {reads}; upgrade limberlm")
    if type(found) is not int or found < 1:
        raise UserError(f"{place}: format {found!r} is none that limberlm has written; {otherwise}")
    return found
