"""The errors limberlm raises on purpose, and the exit code each one ends the command with."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

_FULL = "the disk is full; free some space and run the same command again"
_LIMITS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "a file is larger than this process may write; raise `ulimit -f` and run the same command again",
    errno.EMFILE: "more open files than this process may have; raise `ulimit -n` and run the same command again",
}
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG}


class LimberError(Exception):
    """Base of every deliberate error. The command line prints it as one line and exits with `exit_code`.

    Attributes: `everywhere`, whether all processes that share one piece of work end with it.
    """

    exit_code = 1
    everywhere = False


class UserError(LimberError):
    """Something the user can mend: the message names the file, field or value and what to do."""

    exit_code = 3


class NodeFailed(LimberError):
    """A stage of a study could not be finished for a reason that lies in the run, not in the settings."""


class Lost(LimberError):
    """Another process that shares the work has ended without a word: it was killed, or ran out of memory."""


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint naming the option closest to `word`, or the empty string when none is close.

    >>> nearest("efective_rank", ["effective_rank", "rankme"])
    ' (did you mean "effective_rank"?)'
    >>> nearest("zzz", ["effective_rank"])
    ''
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def reason_of(error: BaseException) -> str:
    r"""What an exception of another library says, in one line; with its name where that alone says little.

    >>> reason_of(ValueError("bad field:\n  x is 3\nmore")), reason_of(KeyError("metadata")), reason_of(MemoryError())
    ('bad field: x is 3', "KeyError: 'metadata'", 'MemoryError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return said if said and not isinstance(error, KeyError) else f"{type(error).__name__}: {said}".removesuffix(": ")


def storage_problem(error: BaseException | None) -> str | None:
    """What to do about an error whose cause is the user's disk, path or limits, or None if it is something else.

    Looks through the causes too, and at the words: safetensors reports a full disk in no other way.

    >>> storage_problem(NotADirectoryError(errno.ENOTDIR, "Not a directory"))
    'not a directory; choose a folder you may write to'
    >>> storage_problem(ValueError("x")) is None
    True
    """
    if error is None:
        return None
    said = re.search(r"(?:os error|errno) (\d+)", str(error), re.IGNORECASE)
    code = getattr(error, "errno", None) or (int(said[1]) if said else None)
    if "No space left on device" in str(error):
        code = errno.ENOSPC
    if code in _LIMITS:
        return _LIMITS[code]
    if isinstance(error, OSError) and code in _UNUSABLE:
        return f"{str(error.strerror).lower()}; choose a folder you may write to"
    return storage_problem(error.__cause__ or error.__context__)
