"""`limber advise`: which ordering and which intervention to use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from limberlm.cli.console import JsonOption, print_json, print_table, say
from limberlm.cli.figures import UNKNOWN, counted, effect


def advise(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.")],
    by: Annotated[
        str, typer.Option("--by", help="future_loss, future_score, ood_loss, earlier_loss or prose_loss.")
    ] = "future_loss",
    margin: Annotated[float, typer.Option("--margin", help="Targets this close count as matched, nats.")] = 0.05,
    worth: Annotated[float, typer.Option("--worth", help="The smallest difference worth having.")] = 0.05,
    ordering: Annotated[
        str | None, typer.Option("--ordering", help="The one used anyway. [default: the study's first]")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", help="The one used anyway. [default: none]")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Pairs of chains, not seeds, are repetitions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Which ordering and which intervention to use.

    By future score, at matched target score. What would be used anyway stays unless another is better beyond doubt.
    Differences are paired by seed.

    Example: limber advise runs/prediction --by ood_loss
    """
    from limberlm.analysis.advice import advise as advice_of
    from limberlm.study.results.results import Results

    found = advice_of(Results(folder), by, margin=margin, worth=worth, ordering=ordering, arm=arm, pairs=pairs)
    if as_json:
        print_json(found.as_dict())
        return
    say(found.sentence)
    for choice in (found.orderings, found.arms):
        if choice is not None:
            _print_choice(choice, found)
    if found.together:
        change, interval = effect(found.together)
        say(f"As they were run, {found.ordering} under {found.arm} changes {by} by {change} ({interval}).")
    for reason in found.reasons:
        say(reason)
    _print_units(found, pairs)


def _print_choice(choice: Any, found: Any) -> None:
    ranked, apart = (choice.table[choice.table["matched"] == matched].to_dict("records") for matched in (True, False))
    title = f"Against {choice.default}, {choice.target} within {found.margin:g}, the best {found.by} first"
    ends = ["agree", "p, adjusted", "more seeds", "verdict"]
    if ranked:
        columns = [choice.of, found.by, "95 % interval", *ends]
        print_table(title, columns, [_row(row) for row in ranked])
    if apart:
        columns = [choice.of, choice.target, "95 % interval", "more seeds", found.by, "95 % interval", "verdict"]
        title = f"Not ranked: {choice.target} against {choice.default} not within {found.margin:g}"
        print_table(title, columns, [_apart(row) for row in apart])


def _row(row: dict[Any, Any]) -> list[str]:
    agree = f"{row['agree']} of {row['repetitions']}"
    return [row["candidate"], *effect(row), agree, _p(row["p_adjusted"]), _seeds(row["more_seeds"]), row["verdict"]]


def _apart(row: dict[Any, Any]) -> list[str]:
    target = effect(row, "target_difference", "target_low", "target_high")
    return [row["candidate"], *target, _seeds(row["target_seeds"]), *effect(row), row["verdict"]]


def _p(value: float) -> str:
    return UNKNOWN if value != value else "<0.0001" if value < 1e-4 else f"{value:.2g}"


def _seeds(count: float) -> str:
    from limberlm.analysis.advice.words import seeds

    return seeds(count)


def _print_units(found: Any, pairs: bool) -> None:
    units = ", ".join(counted(count, name[:-1]) for name, count in found.units.items())
    what = "a pair of chains is a repetition, as if chains of one seed were independent" if pairs else "a seed is one"
    say(
        f"{units}; {what}. More seeds: how many would find the difference seen, if it is true (or show the target to "
        "match, if it does), four times in five."
    )
