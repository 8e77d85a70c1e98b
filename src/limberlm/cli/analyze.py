"""`limber analyze`: what a study's interventions changed, and how sure that is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say
from limberlm.cli.figures import counted, effect, number
from limberlm.cli.reading import reading


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
    with reading():
        _analyze(folder, full, against, as_json)


def _analyze(folder: Path, full: bool, against: str, as_json: bool) -> None:
    from limberlm.analysis.arms import ends, lacking, wear
    from limberlm.cli import predicted
    from limberlm.cli.orderings import ordering_json, print_orderings
    from limberlm.study.results.results import Results

    results = Results(folder)
    found = ends(results)
    table, worn = _arms(found, against), wear(found, against)
    expected = predicted.predicted(results, against, whole=as_json)
    left_out = lacking(found, sum(chain.control is None for chain in results.chains))
    if as_json:
        told = {"left_out": left_out, "wear": worn.to_dict("records"), "arms": table.to_dict("records")}
        print_json(told | ordering_json(found, against) | predicted.as_json(expected))
        return
    for line in left_out:
        say(line)
    rows = [[row["quantity"], *effect(row)] for row in worn.to_dict("records")]
    print_table(f"{against} against the base", ["quantity", "change", "95 % interval"], rows)
    if len(table):
        _print_arms(table, full)
    else:
        say(f"Arms: the study has {against} only; add others under `interventions` to compare them.")
    print_orderings(found, against, full)
    predicted.show(expected, full)


def _arms(found: Any, against: str) -> Any:
    """The arms against one; empty where there is only that one."""
    from limberlm.analysis.arms import arms_table

    return found.head(0) if set(found["arm"]) == {against} else arms_table(found, against)


def _print_arms(table: Any, full: bool) -> None:
    from limberlm.analysis.arms import QUANTITIES

    for name in dict.fromkeys(table["quantity"]) if full else list(dict.fromkeys(table["quantity"]))[:3]:
        what = next((quantity.what for quantity in QUANTITIES if quantity.name == name), "share of target gain kept")
        rows = [_row(row) for row in table[table["quantity"] == name].to_dict("records")]
        columns = ["arm", "effect", "95 % interval", "agree", "p, adjusted", "detectable", "verdict"]
        print_table(f"{name}: {what}", columns, rows)
    pairs = counted(table["pairs"].max(), "pair")
    say(f"{pairs} of chains of one ordering and seed; chains of one seed share rows and adapters.")


def _row(row: dict[Any, Any]) -> list[str]:
    agree = f"{row['agree']} of {row['pairs']}"
    return [row["arm"], *effect(row), agree, number(row["p_adjusted"]), number(row["detectable"]), row["verdict"]]
