"""The errors limberlm raises on purpose, and the exit code each one ends the command with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimberError(Exception):
    """Base of every deliberate error. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class UserError(LimberError):
    """Something the user can mend: the message names the file, field or value and what to do."""

    exit_code = 3


class NodeFailed(LimberError):
    """A stage of a study could not be finished for a reason that lies in the run, not in the settings."""


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint naming the option closest to `word`, or the empty string when none is close.

    >>> nearest("efective_rank", ["effective_rank", "rankme"])
    ' (did you mean "effective_rank"?)'
    >>> nearest("zzz", ["effective_rank"])
    ''
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""
