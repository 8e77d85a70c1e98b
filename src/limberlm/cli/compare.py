"""`limber compare`: paired differences of two geometries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, out, print_json, print_table


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference: a .geometry folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    full: Annotated[bool, typer.Option("--full", help="Every site and metric, not only the headline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What changed from A to B, with intervals paired over the same texts.

    Example: limber compare geometry/base.geometry geometry/dpo.geometry
    """
    from limberlm.observe import Geometry
    from limberlm.observe import compare as compare_two

    found = compare_two(Geometry.load(a), Geometry.load(b))
    table = found.table if full else found.headline
    if as_json:
        print_json(table.to_dict("records"))
        return
    rows = [_row(row) for row in table.to_dict("records")]
    print_table(
        f"{b.name} against {a.name}",
        ["metric", "site", "convention", "A", "B", "change", "95 % interval", "p, adjusted"],
        rows,
    )
    out.print("Intervals are over probe sequences for these two checkpoints; they say nothing about training seeds.")


def _row(row: dict[Any, Any]) -> list[str]:
    ratio = row["scale"] == "log"
    change, low, high = (_shown(row[key], ratio) for key in ("corrected", "low", "high"))
    p = row["p_adjusted"]
    return [
        row["metric"],
        row["site"],
        row["convention"],
        f"{row['a']:.4g}",
        f"{row['b']:.4g}",
        change,
        f"{low} to {high}",
        "-" if p != p else "<0.0001" if p < 1e-4 else f"{p:.4f}",
    ]


def _shown(value: float, ratio: bool) -> str:
    if value != value:
        return "-"
    return f"{100 * (value - 1):+.2f} %" if ratio else f"{value:+.4f}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)
