"""`limber report`: the report of a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption
from limberlm.errors import UserError


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")], as_json: JsonOption = False
) -> None:
    """Write DIR/report.html from what is finished.

    One self-contained file; the headline table is printed too.

    Example: limber report runs/first
    """
    from limberlm.cli.run import finish
    from limberlm.study import Results

    results = Results(folder)
    if not results.measured:
        raise UserError(f"{folder}: nothing is measured yet; run the study first")
    finish(results, as_json)
