"""`limber report`: the report of a run directory, or two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption, print_json, say
from limberlm.cli.reading import reading
from limberlm.errors import UserError


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR [DIR]", help="A run directory, or two to compare.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write it, in place of DIR/report.html.")] = None,
    every_run: Annotated[
        bool, typer.Option("--every-run", help="Show every run of a large study; the page grows.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write DIR/report.html from what is finished; or compare two.

    One self-contained file; the headline table is printed too. Of a large study the page shows the first seeds of every
    chain one at a time, unless asked for --every-run; its summaries are of all. Two studies are compared in the
    orderings, arms and seeds that both have, where they start from one base and are measured alike; the page is
    compare.html beside the first unless --out says otherwise.

    Example: limber report runs/first runs/second --out both.html
    """
    if len(folders) > 2:
        raise UserError(f"{folders[2]}: a third study; give one run directory, or two to compare")
    if len(folders) == 2:
        _compare(folders[0], folders[1], out, as_json)
        return
    with reading():
        from limberlm.cli.run import finish
        from limberlm.study import Results

        results = Results(folders[0])
        if not results.measured:
            raise UserError(f"{folders[0]}: nothing is measured yet; run the study first")
        finish(results, as_json, out, every_run=every_run)


def _compare(first: Path, second: Path, out: Path | None, as_json: bool) -> None:
    from limberlm.report.compare import compare_studies

    path = compare_studies(first, second, out or first / "compare.html")
    if as_json:
        print_json({"report": str(path)})
    else:
        say(f"report: {path}")
