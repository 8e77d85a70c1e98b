"""`limber compare`: what changed between two geometries, where in depth, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say

SHOWN = 8
LEVEL = 0.05


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference: a .geometry folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")],
    full: Annotated[bool, typer.Option("--full", help="Every site and metric, not only the headline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What changed from A to B, with paired intervals.

    Pairs are the same texts, read by both.

    Example: limber compare geometry/base.geometry geometry/dpo.geometry
    """
    from limberlm.observe import Geometry
    from limberlm.observe import compare as compare_two

    found = compare_two(Geometry.load(a), Geometry.load(b))
    table = found.table if full else found.headline
    if as_json:
        print_json(table.to_dict("records"))
        return
    title = f"{b.name} against {a.name}"
    _print_rows(title if full else f"{title}: the metrics fixed in advance", table.to_dict("records"))
    if not full:
        _print_depth(found)
        _print_others(found)
    say("Intervals are over probe sequences for these two checkpoints; they say nothing about training seeds.")


def _print_rows(title: str, rows: list[dict[Any, Any]]) -> None:
    columns = ["metric", "site", "convention", "A", "B", "change", "95 % interval", "p, adjusted", "detectable"]
    print_table(title, columns, [_row(row) for row in rows])


def _print_depth(found: Any) -> None:
    """The change of each headline metric site by site, starred where its interval leaves no change out."""
    wanted = list(zip(found.headline["metric"], found.headline["convention"], strict=True))
    sites = found.table[~found.table["site"].isin(["band", "logits"])]
    cells = {(row["site"], row["metric"], row["convention"]): row for row in sites.to_dict("records")}
    columns = [pair for pair in wanted if any(key[1:] == pair for key in cells)]
    if not columns:
        return
    rows = [[site, *(_marked(cells.get((site, *pair))) for pair in columns)] for site in dict.fromkeys(sites["site"])]
    title = "Where in depth (* adjusted p below 0.05; exploratory)"
    print_table(title, ["site", *(metric for metric, _ in columns)], rows)


def _print_others(found: Any) -> None:
    """The most certain changes among everything else, band and logits only."""
    table = found.table[~found.table["headline"] & found.table["site"].isin(["band", "logits"])]
    sure = table[table["p_adjusted"] < LEVEL].sort_values("p_value", kind="stable")
    if len(sure) == 0:
        say(f"Nothing else is found to have changed, of {len(table)} other numbers.")
        return
    shown = sure.drop_duplicates("metric").head(SHOWN)
    title = f"What else changed: {len(sure)} of {len(table)} other numbers (exploratory; the surest first)"
    _print_rows(title, shown.to_dict("records"))


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
        _detectable(row["detectable"], ratio),
    ]


def _marked(row: dict[Any, Any] | None) -> str:
    if row is None:
        return "-"
    return _shown(row["corrected"], row["scale"] == "log") + ("*" if row["p_adjusted"] < LEVEL else "")


def _shown(value: float, ratio: bool) -> str:
    if value != value:
        return "-"
    return f"{100 * (value - 1):+.2f} %" if ratio else f"{value:+.4f}"


def _detectable(value: float, ratio: bool) -> str:
    if value != value:
        return "-"
    return f"{100 * (value - 1):.2f} %" if ratio else f"{value:.4f}"
