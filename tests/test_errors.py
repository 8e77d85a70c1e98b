"""What the errors of the system mean to a user."""

from __future__ import annotations

import errno

import pytest

from limberlm.errors import storage_problem


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "raise `ulimit -f`"),
        (OSError(errno.EMFILE, "Too many open files"), "raise `ulimit -n`"),
        (RuntimeError("Error while serializing: I/O error: File too large (os error 27)"), "raise `ulimit -f`"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("Error while deserializing header: Too many open files (os error 24)"), "raise `ulimit -n`"),
        (OSError(errno.EROFS, "Read-only file system"), "choose a folder you may write to"),
    ],
    ids=str,
)
def test_what_the_system_refuses_says_what_to_do_even_below_other_errors(error: Exception, advice: str) -> None:
    above = ValueError("something else")
    above.__cause__ = error
    for found in (error, above):
        assert advice in str(storage_problem(found))


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError("x"), OSError(errno.EIO, "Input/output error"), None], ids=str
)
def test_other_errors_are_not_explained_away(error: Exception | None) -> None:
    assert storage_problem(error) is None
