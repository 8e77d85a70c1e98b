"""`limber analyze`: what a study's interventions changed, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say


def analyze(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    full: Annotated[bool, typer.Option("--full", help="Every quantity and scheme, not the first ones only.")] = False,
    against: Annotated[str, typer.Option("--against", help="The arm that the others are held against.")] = "none",
    as_json: JsonOption = False,
) -> None:
    """What each arm of a study does, against none or another arm.

    Three ways: to the geometry, to what the last stage taught, and to what can still be learnt. Chains of the same
    ordering and seed are paired. Before them, what the chains of none did to the base: what there is to prevent. A
    special-purpose arm should beat the cheap ones too: hold it against those. After them, where there are several
    orderings, whether the order matters (with --full what place and predecessor do); whether geometry predicts what
    comes next beyond cheap covariates, in chains not seen; and whether arms act through it.

    Example: limber analyze runs/interventions --against low_rate
    """
    from limberlm.analysis.arms import ends, wear
    from limberlm.cli import predicted
    from limberlm.cli.orderings import ordering_json, print_orderings
    from limberlm.study.results.results import Results

    results = Results(folder)
    found = ends(results)
    table, worn = _arms(found, against), wear(found, against)
    expected = predicted.predicted(results, against, whole=as_json)
    if as_json:
        told = {"wear": worn.to_dict("records"), "arms": table.to_dict("records")}
        print_json(told | ordering_json(found, against) | predicted.as_json(expected))
        return
    rows = [[row["quantity"], *_effect(row)] for row in worn.to_dict("records")]
    print_table(f"{against} against the base", ["quantity", "change", "95 % interval"], rows)
    if len(table):
        _print_arms(table, full)
    print_orderings(found, against, full)
    predicted.show(expected, full)


def _arms(found: Any, against: str) -> Any:
    """The arms against one; empty where there is only that one, but orderings to tell of."""
    from limberlm.analysis.arms import arms_table

    orderings_only = set(found["arm"]) == {against} and found["ordering"].nunique() > 1
    return found.head(0) if orderings_only else arms_table(found, against)


def _print_arms(table: Any, full: bool) -> None:
    from limberlm.analysis.arms import QUANTITIES

    for name in dict.fromkeys(table["quantity"]) if full else list(dict.fromkeys(table["quantity"]))[:3]:
        what = next((quantity.what for quantity in QUANTITIES if quantity.name == name), "share of target gain kept")
        rows = [_row(row) for row in table[table["quantity"] == name].to_dict("records")]
        columns = ["arm", "effect", "95 % interval", "agree", "p, adjusted", "detectable", "verdict"]
        print_table(f"{name}: {what}", columns, rows)
    say(f"{table['pairs'].max()} pairs of chains of one ordering and seed; chains of one seed share rows and adapters.")


def _row(row: dict[Any, Any]) -> list[str]:
    agree = f"{row['agree']} of {row['pairs']}"
    return [row["arm"], *_effect(row), agree, f"{row['p_adjusted']:.2g}", f"{row['detectable']:.2g}", row["verdict"]]


def _effect(row: dict[Any, Any]) -> list[str]:
    effect, low, high = (f"{row[name]:+.3g}" for name in ("effect", "low", "high"))
    return [effect, f"{low} to {high}"]
