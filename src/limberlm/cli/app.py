"""The command line as a whole: its commands, and what every error looks like."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import typer
from typer.exceptions import TyperException

from limberlm.cli.compare import compare
from limberlm.cli.console import tell
from limberlm.cli.demo import demo
from limberlm.cli.measure import measure
from limberlm.cli.metrics import metrics
from limberlm.cli.pretrain import pretrain
from limberlm.cli.prune import prune
from limberlm.cli.report import report
from limberlm.cli.run import run
from limberlm.cli.status import status
from limberlm.cli.testbed import skills
from limberlm.cli.trace import trace
from limberlm.cli.updates import updates
from limberlm.errors import LimberError, UserError, storage_problem
from limberlm.version import __version__

STOPPED = "stopped; run the same command again to go on"

app = typer.Typer(
    help="See what a chain of post-training stages does to a model's representations, and how sure you can be.",
    no_args_is_help=True,
    epilog="--debug, anywhere on the line, shows the traceback of an error.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "measure": measure,
    "compare": compare,
    "updates": updates,
    "run": run,
    "status": status,
    "prune": prune,
    "trace": trace,
    "report": report,
    "metrics": metrics,
    "testbed": skills,
    "pretrain": pretrain,
    "demo": demo,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 1 (our failure) or 3 (something the user can mend).

    It is 130 or 143 where it was stopped, by Ctrl-C or a `kill`, and 141 where nobody read on. `--debug`, anywhere on
    the line, shows the traceback of an error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _quiet_libraries(debug)
    _prepare_streams()
    _stop_in_order()
    try:
        _refuse_empty(given)
        command = typer.main.get_command(app)
        # not by its own `main`, which keeps Ctrl-C and a closed pipe to itself
        with command.make_context("limber", [word for word in given if word != "--debug"]) as context:
            command.invoke(context)
        sys.stdout.flush()  # here a full disk can still be told
        code = 0
    except BaseException as error:
        if debug and not isinstance(error, SystemExit | typer.Exit):
            raise
        code = _told(error)
        _give_up_unwritable_output()
    sys.exit(code)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as we live
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our minus sign still gets the numbers


class _Killed(SystemExit):
    """A `kill`: drafts are removed on the way out, as they are after Ctrl-C."""


def _stop_in_order() -> None:
    def stop(number: int, frame: object) -> None:
        raise _Killed(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)


def _refuse_empty(given: list[str]) -> None:
    """Refuse empty words: what they come from is a variable of the shell that is not set."""
    for before, word in zip(["", *given], given, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise UserError(f"{word or before or 'the command'}: followed by nothing; give a value, or leave it out")


def _told(error: BaseException) -> int:
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


def _give_up_unwritable_output() -> None:
    """Python would try once more as it ends, and tell of it in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> int:
    tell(f"limber: {message}", style="red")
    return code


def _quiet_libraries(debug: bool) -> None:
    """Bars and warnings of the libraries below would drown our own lines; `--debug` lets them through."""
    if debug:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
