"""Where output goes: results to stdout, everything else to stderr; tables, JSON and progress."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

# Names and paths may hold what rich would read as markup.
out = Console(highlight=False, markup=False, emoji=False)
out.soft_wrap = not out.is_terminal  # a file gets whole lines
err = Console(stderr=True, highlight=False, markup=False, emoji=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress display.")]


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN and infinity become null."""
    typer.echo(json.dumps(_plain(value), indent=2, allow_nan=False))


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, the first column to the left and the others to the right; never cut when piped."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for position, head in enumerate(heads):
        table.add_column(
            head, justify="left" if position == 0 else "right", no_wrap=not out.is_terminal, overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False, width=None if out.is_terminal else 400).print(table)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """A progress display on stderr: shown on a terminal, nothing where output is piped or `quiet`."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
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
