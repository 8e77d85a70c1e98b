"""The command line as a whole: its commands, its streams, and how it is run."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import typer

from limberlm.cli.advise import advise
from limberlm.cli.analyze import analyze
from limberlm.cli.compare import compare
from limberlm.cli.copies import copies, refuse_copies, silence, speaks
from limberlm.cli.demo import demo
from limberlm.cli.exits import give_up_unwritable_output, stop_in_order, told, told_once
from limberlm.cli.folora import prepare
from limberlm.cli.gate import gate
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
from limberlm.errors import UserError
from limberlm.files import COPIED, OUT_THERE, refuse_address
from limberlm.version import __version__

EPILOG = """To begin: `limber demo`; or, with checkpoints, `limber measure base/ dpo/ --probe texts.jsonl`, then
`limber compare geometry/base.geometry geometry/dpo.geometry`. `limber COMMAND --help` has an example of each.

Ends with 0; with 1 for an error of limber's own or a stage that failed, 3 for what you can mend, 130 where it was
stopped; `limber gate` also with 2 for fail and 4 for inconclusive.

--debug, anywhere on the line, shows the traceback of an error.
"""

app = typer.Typer(
    help="See what a chain of post-training stages does to a model's representations, and how sure you can be.",
    no_args_is_help=True,
    epilog=EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "measure": measure,
    "compare": compare,
    "gate": gate,
    "updates": updates,
    "run": run,
    "status": status,
    "prune": prune,
    "analyze": analyze,
    "advise": advise,
    "trace": trace,
    "report": report,
    "metrics": metrics,
    "testbed": skills,
    "pretrain": pretrain,
    "folora prepare": prepare,
    "demo": demo,
}
GROUPS = {"folora": "Foundation-preserving LoRA (arXiv 2606.00132). See limber folora prepare --help."}
"""The first words of commands of two."""

_groups = {"": app} | {
    name: typer.Typer(help=what, no_args_is_help=True, rich_markup_mode=None) for name, what in GROUPS.items()
}
for name in GROUPS:
    app.add_typer(_groups[name], name=name)
for name, command in COMMANDS.items():
    group, _, word = name.rpartition(" ")
    _groups[group].command(word)(command)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        typer.echo(__version__)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 1 (our failure) or 3 (something the user can mend).

    `gate` ends with 2 for fail and 4 for inconclusive. The code is 130 or 143 where the command was stopped, by Ctrl-C
    or a `kill`, and 141 where nobody read on. `--debug`, anywhere on the line, shows the traceback of an error. Of
    several processes that a launcher started, process 0 prints, and ends with the code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    _quiet_libraries(debug)
    _prepare_streams()
    if not speaks():
        silence(debug)
    stop_in_order()
    try:
        _refuse_empty(given)
        _refuse_addresses(given)
        refuse_copies(given)
        command = typer.main.get_command(app)
        # not by its own `main`, which keeps Ctrl-C and a closed pipe to itself
        with command.make_context("limber", [word for word in given if word != "--debug"]) as context:
            command.invoke(context)
        sys.stdout.flush()  # here a full disk can still be told
        code = 0
    except BaseException as error:
        if debug and not isinstance(error, SystemExit | typer.Exit):
            raise
        code = told(error) if copies() == 1 else told_once(error)
        give_up_unwritable_output()
    sys.exit(code)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as we live
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our minus sign still gets the numbers


def _refuse_empty(given: list[str]) -> None:
    """Refuse empty words: what they come from is a variable of the shell that is not set."""
    for before, word in zip(["", *given], given, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise UserError(f"{word or before or 'the command'}: followed by nothing; give a value, or leave it out")


def _refuse_addresses(given: list[str]) -> None:
    """Refuse addresses of storage elsewhere; those of a cluster and of a store are judged by whoever uses them."""
    for before, word in zip(["", *given], given, strict=False):
        option, separator, value = word.partition("=") if word.startswith("--") else (before, "", word)
        if option not in ("--address", "--store"):
            where = option if separator or option.startswith("--") else ""
            refuse_address(value, where, OUT_THERE if where == "--out" and "run" in given[:2] else COPIED)


def _quiet_libraries(debug: bool) -> None:
    """Bars and warnings of the libraries below would drown our own lines; `--debug` lets them through.

    Nor is a hub told that somebody trains, as TRL does unasked.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if debug:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if copies() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # that a process is lost we tell ourselves
