"""Where output goes: results to stdout, everything else to stderr; tables, JSON and progress."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table


class _Plain(Console):
    """A console for names from outside, in which a bracket is a bracket and `:x:` three characters."""

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """The command ends, not the process: it knows the exit code."""
        raise  # the BrokenPipeError that rich is handling


out, err = _Plain(), _Plain(stderr=True)

WIDEST = 100_000
"""Columns of a table that is piped: as many as it has."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN and infinity become null."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def one_line(text: str) -> str:
    r"""Text that stays on its line and gives the terminal no orders: what cannot be shown is spelled out.

    >>> one_line("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c == "\xa0" else ascii(c)[1:-1] for c in text)


def say(text: str = "") -> None:
    """Print a line of results on stdout; broken between words on a terminal, and nowhere in a file."""
    out.print(one_line(text), soft_wrap=not out.is_terminal)


def tell(text: str, style: str | None = None) -> None:
    """Print a line about the work on stderr."""
    err.print(one_line(text), style=style, soft_wrap=True)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column to the left and the others to the right; never cut, nor broken when piped."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for position, head in enumerate(heads):
        side: JustifyMethod = "left" if position == 0 else "right"
        # folded, not cut: half a number is another number
        table.add_column(one_line(head), justify=side, no_wrap=not out.is_terminal, overflow="fold")
    for row in rows:
        table.add_row(*map(one_line, row))
    console = _Plain(width=None if out.is_terminal else WIDEST)
    console.print(one_line(title), style="bold", soft_wrap=True)  # a table's own title is broken at the table's width
    console.print(table)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress display on stderr: shown on a terminal, nothing where output is piped or `quiet`."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    ) as progress:
        yield progress


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") or hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
