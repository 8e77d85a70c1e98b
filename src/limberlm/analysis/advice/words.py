"""The advice in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isinf
from typing import Any

from limberlm.analysis.advice.choice import BETTER, Choice, Rules
from limberlm.analysis.advice.power import MOST
from limberlm.analysis.arms import Quantity


def first_sentence(default: Mapping[str, str], use: Mapping[str, str], choices: Sequence[Choice], by: Quantity) -> str:
    """What to do, and why in a clause."""
    if use == default:
        return f"Keep {_named(default)}: no difference found in favour of another, by {by.name} at matched target."
    rows = [(choice.of, choice.row) for choice in choices]
    why = " and ".join(f"the {of} changes {by.name} by {_interval(row)}" for of, row in rows if row is not None)
    return f"Use {_named(use)} instead of {_named(default)}: at matched target {why}."


def choice_sentence(choice: Choice, rules: Rules) -> str:
    """What was found among orderings, or arms, and what more seeds would show."""
    table, what = choice.table, "Orderings" if choice.of == "ordering" else "Arms"
    matched = table[table["matched"]]
    if not len(matched):
        more = _more(float(table["target_seeds"].max()))
        return (
            f"{what}: none of the others was shown to be at matched target, so none is ranked; {more} would show it of "
            "targets that are the same."
        )
    better = matched[matched["verdict"] == BETTER]["candidate"]
    if len(better):
        others = f" (the others: {', '.join(better[1:])}; not compared with it)" if len(better) > 1 else ""
        return f"{what}: {better.iloc[0]} has the best mean of {len(better)} found better{others}."
    least = float(matched["detectable"].max())
    if not least > 0:
        why = "no seed differs from another" if least == 0 else "fewer than two seeds have it"
        return f"{what}: none was found better; {why}, so what could have been found is not known."
    return (
        f"{what}: none was found better; a true difference of {least:.2g} in any of them would have been found four "
        f"times in five, and one of {rules.worth:g} {_takes(choice.seeds_for_worth)}."
    )


def seeds(count: float) -> str:
    """A number of seeds, or that it is out of reach."""
    return f"over {MOST}" if isinf(count) else f"{count:.0f}"


def _takes(count: float) -> str:
    return f"takes {_more(count)}" if count else "too"


def _more(count: float) -> str:
    return f"{seeds(count)} more {'seed' if count == 1 else 'seeds'}"


def _named(which: Mapping[str, str]) -> str:
    return f"{which['ordering']} under {which['arm']}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['effect']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g}, adjusted p {row['p_adjusted']:.2g})"
