"""`limber prune`: make room in a run directory."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say


def prune(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    unplanned: Annotated[
        bool, typer.Option("--unplanned", help="Also nodes of former settings, which the plan does not have now.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go; remove nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove merged weights, which can be made again.

    The base and the adapters stay.

    Example: limber prune runs/first --dry-run
    """
    from limberlm.study import Results
    from limberlm.study.store.prune import removable, remove
    from limberlm.study.store.store import locked

    results = Results(folder)
    with nullcontext() if dry_run else locked(folder, "study"):
        found = removable(results, unplanned=unplanned)
        if not dry_run:
            remove(found)
    freed = sum(each.size for each in found)
    if as_json:
        told = [{"folder": str(each.folder), "why": each.why, "bytes": each.size} for each in found]
        print_json({"removed": not dry_run, "bytes": freed, "folders": told})
        return
    verb = "would be removed" if dry_run else "removed"
    if found:
        rows = [[str(each.folder.relative_to(folder)), each.why, f"{each.size / 1e6:.1f}"] for each in found]
        print_table(f"{len(found)} folders {verb}", ["folder", "why", "MB"], rows)
    say(f"{freed / 1e6:.1f} MB {verb}")
