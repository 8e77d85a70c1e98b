"""The part of `limber analyze` that tells what the order of stages does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limberlm.cli.console import print_table, say
from limberlm.cli.figures import UNKNOWN, counted, effect, number
from limberlm.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from limberlm.analysis.ordering import OrderingEffects

SHOWN = ("future_loss", "taught_loss", "ood_loss")
TABLES = {
    "positions": ("a stage one place later", ["stage"]),
    "predecessors": ("a stage directly after another, against elsewhere", ["stage", "after"]),
    "commutators": ("the first then the second, against the second then the first", ["first", "second"]),
}


def ordering_json(ends: pd.DataFrame, arm: str) -> dict[str, Any]:
    """`orderings`: the effects of the order on each quantity, of one arm and over all; nothing for one ordering."""
    found = [effects.as_dict() for effects in _effects(ends, arm)]
    return {"orderings": found} if found else {}


def print_orderings(ends: pd.DataFrame, arm: str, full: bool) -> None:
    """Whether the order matters, a line per quantity; with `full`, which part of an order it is."""
    if ends["ordering"].nunique() < 2:
        return
    from limberlm.analysis.ordering.effects import told_reasons

    effects = list(_effects(ends, arm))
    if not effects:
        say("Orderings: no seed has all of its chains yet, so they are not compared.")
        return
    columns = ["quantity", "arm", "share of order", "share of seed", "p", "smallest p", "detectable", "verdict"]
    print_table("Orderings: labels exchanged within seeds", columns, [_row(each) for each in effects])
    for each in effects if full else ():
        for name, (what, keys) in TABLES.items():
            if len(table := getattr(each, name)):
                heads = [*keys, "effect", "95 % interval", "p, adjusted", "confounded"]
                title = f"{each.quantity} of {each.arm or 'all arms'}: {what}"
                print_table(title, heads, [_effect(row, keys) for row in table.to_dict("records")])
    if full:
        say("Places, predecessors and exchanges are descriptive: p is adjusted within its table only.")
    seeds = counted(max(each.units["seeds"] for each in effects), "seed")
    say(f"{effects[0].units['orderings']} orderings in {seeds}; a seed is one repetition, whatever its arms.")
    for reason in told_reasons(effects):
        say(reason)


def _effects(ends: pd.DataFrame, arm: str) -> list[OrderingEffects]:
    from limberlm.analysis.ordering.effects import of_ends

    found = []
    for quantity in SHOWN:
        for of in dict.fromkeys((arm, None if ends["arm"].nunique() > 1 else arm)):
            try:
                found.append(of_ends(ends, quantity, of))
            except UserError:  # other tasks in every ordering, or no seed that has all chains: nothing to compare
                continue
    return found


def _row(effects: OrderingEffects) -> list[str]:
    spread, test = effects.anova, effects.test
    return [
        effects.quantity,
        effects.arm or "all",
        number(spread.eta_squared, ".2f"),
        number(spread.seed_share, ".2f"),
        number(test.p) if test else UNKNOWN,
        number(effects.smallest_p),
        number(spread.detectable),
        effects.verdict,
    ]


def _effect(row: dict[Any, Any], keys: list[str]) -> list[str]:
    shared = row["confounded"]
    confounded = number(shared, ".0%") if shared == shared or row["matched"] else "rest differs"
    return [*(row[key] for key in keys), *effect(row), number(row["p_adjusted"]), confounded]
