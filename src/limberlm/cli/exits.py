"""How a command ends that cannot go on: what is told, and the exit code."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

import typer
from typer.exceptions import TyperException

from limberlm.cli.console import tell
from limberlm.cli.copies import is_first_to_tell, speaks
from limberlm.errors import LimberError, Lost, UserError, storage_problem

STOPPED = "stopped; run the same command again to go on"
LOST = "one of the processes has ended (killed, or out of memory?), or all were stopped; run the same command again"


class _Killed(SystemExit):
    """A `kill`: drafts are removed on the way out, as they are after Ctrl-C."""


def stop_in_order() -> None:
    """From now on a `kill` ends the command as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise _Killed(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


def told(error: BaseException) -> int:
    """Tell an error in one line, and say which exit code it ends the command with."""
    if isinstance(error, _Killed):
        return _fail(STOPPED, int(str(error)))
    if isinstance(error, BrokenPipeError) and _is_unread():
        return 128 + signal.SIGPIPE
    if isinstance(error, SystemExit | typer.Exit):
        return int(getattr(error, "exit_code", getattr(error, "code", 0)) or 0)
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, LimberError):
        return _fail(str(error), error.exit_code)
    if problem := storage_problem(error):
        return _fail(f"{getattr(error, 'filename', None) or 'the output folder'}: {problem}", UserError.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _fail(STOPPED, 130)
    if isinstance(error, MemoryError):
        return _fail("out of memory: a smaller model or batch, or a larger machine, helps", 1)
    text = " ".join(str(error).split())
    return _fail(f"{type(error).__name__}: {text} (an error of limberlm's own; --debug shows where)", 1)


def told_once(error: BaseException) -> int:
    """The same where a launcher started several of us: process 0 tells, or whoever first notices that one is lost.

    A process that does not tell ends with 0 where process 0 tells the same: another code, and the launcher would stop
    process 0 before it has.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher stops all when one ends
    if isinstance(error, _Killed | KeyboardInterrupt | Lost):
        if is_first_to_tell():
            sys.stderr = sys.__stderr__
            tell(f"limber: {LOST}", style="red")
        return 1 if isinstance(error, Lost) else int(str(error) or 130)
    if speaks() and "torch" in sys.modules:
        is_first_to_tell()  # so that those who are stopped now stay silent
    code = told(error)
    same = isinstance(error, UserError | TyperException) or getattr(error, "everywhere", False)
    return 0 if same and not speaks() else code


def _usage(error: TyperException) -> int:
    """A command typed wrongly; a bare `limber` shows the help, which typer also raises as an error."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 0
    return _fail(" ".join(message.split()) + " See --help.", UserError.exit_code)


def _is_unread() -> bool:
    """Whether whoever read our output has closed it, as `head` does: no error, and nothing more to say."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def give_up_unwritable_output() -> None:
    """Python would try once more as it ends, and tell of it in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    tell(f"limber: {message}", style="red")
    return code
