"""The study in words, before any figure: what changed, how sure that is, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from limberlm.analysis.arms import FUTURE, GEOMETRY, KEPT, wear
from limberlm.report import words
from limberlm.report.study.three_ways import ENOUGH, helpful

NONE = "none"
CHANGES = {
    GEOMETRY.name: "effective rank of the depth band",
    FUTURE.name: "the loss on future tasks after learning them",
    "earlier_loss": "the held-out loss on the tasks of earlier stages",
    "ood_loss": "the loss on the tasks' out-of-domain splits",
}
FEW_SEEDS = 3


@dataclass(frozen=True)
class Summary:
    """Sentences under the three questions."""

    over: str
    changed: Sequence[str]
    sure: Sequence[str]
    to_do: Sequence[str]


def summary(ends: pd.DataFrame, arms: pd.DataFrame, reason: str, more: Sequence[str] = ()) -> Summary:
    """The summary of a study.

    Args:
        ends: as from `analysis.arms.ends`; empty where no chain is finished and measured.
        arms: as from `analysis.arms.arms_table`; empty where there is one arm only.
        reason: why `ends` is empty.
        more: what else is to be known of how sure this is, such as what chains lack.

    """
    if ends.empty:
        told = f"Nothing can be said of the study as a whole yet: {reason}" if reason else "No chain is finished yet."
        return Summary("", [told], [], ["Finish the study, then write the report again. What is measured is below."])
    plain = int((ends["arm"] == NONE).sum())
    over = f"From the base to the end of {_count(plain, 'chain')} without an intervention:" if plain else ""
    return Summary(over, list(_changed(ends)), [*_sure(ends, arms), *more], list(_to_do(ends, arms)))


def _changed(ends: pd.DataFrame) -> Iterator[str]:
    plain = ends[ends["arm"] == NONE]
    if plain.empty:
        yield f'There is no chain of the arm "{NONE}", so what stages do by themselves is not known.'
        return
    for row in wear(ends, NONE).to_dict("records"):
        if row["quantity"] in CHANGES:
            yield _change(row)


def _change(row: Mapping[Any, Any]) -> str:
    what, unit = CHANGES[row["quantity"]], words.PERCENT if row["quantity"] == GEOMETRY.name else " nats"
    effect, low, high = (words.difference(row[name], 3) for name in ("effect", "low", "high"))
    if not math.isfinite(row["low"]):
        return f"{what}: {effect}{unit} in one chain, without an interval."
    span = f"95 % interval {low} to {high}"
    if row["low"] <= 0 <= row["high"]:
        return f"no change found in {what} ({effect}{unit}, {span})."
    return f"{what} {'rose' if row['effect'] > 0 else 'fell'} by {effect.lstrip('+−')}{unit} ({span})."


def _sure(ends: pd.DataFrame, arms: pd.DataFrame) -> Iterator[str]:
    counts = (
        _count(ends[name].nunique(), what)
        for name, what in (("ordering", "ordering"), ("arm", "arm"), ("seed", "seed"))
    )
    yield f"{_count(len(ends), 'finished chain')}: {', '.join(counts)}."
    yield (
        "Intervals are over chains, which count as independent; those of one seed share rows and beginnings, so where "
        "seeds differ the intervals are too narrow. A change of geometry is no judgement by itself."
    )
    future = arms[arms["quantity"] == FUTURE.name] if len(arms) else arms
    if len(future) and future["detectable"].notna().any():
        size = words.number(float(future["detectable"].median()), 2)
        yield f"An arm's effect on future loss is found four times in five if it is about {size} nats or more."


def _to_do(ends: pd.DataFrame, arms: pd.DataFrame) -> Iterator[str]:
    seeds = ends["seed"].nunique()
    if seeds < FEW_SEEDS:
        yield f"Add seeds ({seeds} now): what differs between seeds cannot be told from what the stages do."
    if arms.empty:
        yield "Nothing here says what would help: there is one arm only. Add others under interventions."
        return
    found = helpful(arms)
    for arm, keeps in found.items():
        doubt = "" if keeps else f"; that it keeps {words.percent(ENOUGH)} of the target gain is not shown"
        yield f"{'Consider' if keeps else 'With care:'} {arm}: {_arm(arms, arm)}{doubt}."
    if not found:
        yield "No arm was found to help future tasks, so the study recommends none."
    rows = arms[(arms["quantity"] == FUTURE.name) & (arms["verdict"] == "harms")]
    if len(rows):
        yield f"Found to make future tasks harder: {', '.join(rows['arm'])}."


def _arm(arms: pd.DataFrame, arm: str) -> str:
    rows = {row["quantity"]: row for row in arms[arms["arm"] == arm].to_dict("records")}
    future, kept = rows[FUTURE.name], rows.get(KEPT)
    span = words.interval(future["low"], future["high"], lambda value: words.difference(value, 3))
    told = [f"future loss {words.difference(future['effect'], 3)} nats", f"95 % interval {span}"]
    if kept is not None and math.isfinite(kept["effect"]):
        told.append(f"{words.percent(kept['effect'])} of the target gain kept")
    return ", ".join(told)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
