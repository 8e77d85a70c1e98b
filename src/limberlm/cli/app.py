"""The command line as a whole: its commands, and what every error looks like."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable

import typer
from typer.exceptions import TyperException

from limberlm.cli.compare import compare
from limberlm.cli.console import err
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

STOPPED = 130

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

    `--debug`, anywhere on the line, shows the traceback of an error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _quiet_libraries(debug)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our minus sign still gets the numbers
    try:
        code = app([word for word in given if word != "--debug"], standalone_mode=False)
        if code == STOPPED:  # what typer makes of an interrupt
            raise KeyboardInterrupt
        print(end="", flush=True)  # a full disk, or a reader who is gone, shows now
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            raise
        code = _told(error)
        _give_up_unwritable_output()
    sys.exit(code or 0)


def _told(error: BaseException) -> int:
    if isinstance(error, SystemExit | typer.Exit):
        return int(getattr(error, "exit_code", getattr(error, "code", 0)) or 0)
    if isinstance(error, TyperException):
        return _usage(error)
    if isinstance(error, BrokenPipeError):  # as in `limber status DIR | head -1`
        return 1
    if isinstance(error, LimberError):
        return _fail(str(error), error.exit_code)
    if problem := storage_problem(error):
        return _fail(f"{getattr(error, 'filename', None) or 'the output folder'}: {problem}", UserError.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _fail("stopped; run the same command again to go on", STOPPED)
    if isinstance(error, MemoryError):
        return _fail("out of memory: a smaller model or batch, or a larger machine, helps", 1)
    text = " ".join(str(error).split())
    return _fail(f"{type(error).__name__}: {text} (an error of limberlm's own; --debug shows where)", 1)


def _give_up_unwritable_output() -> None:
    """Python would try once more as it ends, and tell of it in its own way."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: TyperException) -> int:
    """A command typed wrongly; a bare `limber` shows the help, which typer also raises as an error."""
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return 0
    return _fail(" ".join(message.split()) + " See --help.", UserError.exit_code)


def _fail(message: str, code: int) -> int:
    line = " ".join(f"limber: {message}".splitlines())  # names and paths may hold anything
    err.print(line, style="red", highlight=False, soft_wrap=True)
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
