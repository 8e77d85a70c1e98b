"""`limber metrics`: the catalog."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from limberlm.cli.console import JsonOption, out, print_json, print_table
from limberlm.errors import UserError, nearest


def metrics(
    name: Annotated[str | None, typer.Argument(help="One metric; all of them if left out.")] = None,
    presets: Annotated[bool, typer.Option("--presets", help="The sets of conventions of `limber measure`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What each metric is: formula, source, range, direction.

    The direction is the way it moves when features concentrate.

    Example: limber metrics effective_rank
    """
    from limberlm.geometry.catalog import CATALOG

    if presets:
        _presets(as_json)
        return
    if name is not None and name not in CATALOG:
        raise UserError(f"no such metric: {name}{nearest(name, CATALOG)}; `limber metrics` lists them")
    records = {
        key: {field: value for field, value in asdict(metric).items() if not callable(value)}
        for key, metric in CATALOG.items()
        if name in (None, key)
    }
    if as_json:
        print_json(list(records.values()))
    elif name is not None:
        for field, value in records[name].items():
            out.print(Text.assemble((f"{field:10} ", "bold"), str(value)), soft_wrap=not out.is_terminal)
    else:
        rows = [
            [key, record["family"], record["bounds"], record["direction"], record["title"]]
            for key, record in records.items()
        ]
        print_table("Metrics", ["name", "family", "range", "when features concentrate", "what it is"], rows)


def _presets(as_json: bool) -> None:
    from limberlm.observe.forward.presets import PRESETS

    if as_json:
        print_json([asdict(preset) for preset in PRESETS.values()])
        return
    rows = [
        [name, ", ".join(preset.conventions), ", ".join(preset.metrics) or "those of the suite", preset.title]
        for name, preset in PRESETS.items()
    ]
    print_table("Presets", ["name", "conventions", "metrics", "what it is"], rows)
