"""Whether the order of a chain's stages matters to its end, and which part of an order it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from limberlm.analysis.arms import FUTURE, NAMES, TAUGHT, ends, paired
from limberlm.analysis.ordering.anova import Anova, anova
from limberlm.analysis.ordering.cells import ARROW, Cells, cells, refuse_other_tasks
from limberlm.analysis.ordering.contrasts import (
    Contrast,
    commutators,
    moving,
    never_after,
    positions,
    predecessors,
)
from limberlm.analysis.ordering.permutation import DRAWS, Permuted, permuted, smallest_p
from limberlm.analysis.plain import plain
from limberlm.errors import UserError, nearest
from limberlm.geometry.uncertainty import holm
from limberlm.study.results.results import Results

FOUND, NOT_FOUND, NOT_TESTED = "difference found", "no difference found", "cannot be tested"


@dataclass(frozen=True)
class OrderingEffects:
    """What the order of stages does to one quantity of a chain's end.

    The unit is a seed: chains of one seed share rows, fresh adapters and beginnings, whatever their arm. Intervals are
    Student's, 95 %, over seeds; p-values are two-sided, and Holm's over the effects of a table.

    Attributes:
        quantity: what is compared.
        arm: of the chains; None for means over all arms.
        units: how many `orderings`, `seeds`, `arms` and `chains` it rests on.
        anova: shares of the spread.
        test: the permutation test; None below the reach of the design.
        smallest_p: what so many orderings and seeds can reach at best.
        table: one row per ordering: `mean, low, high` over seeds.
        positions: one row per stage that moves: the change of the quantity per place that it stands later.
        predecessors: one row per pair: with `stage` directly after `after`, minus without.
        commutators: one row per pair: R(first then second) - R(second then first).
        verdict: difference found, no difference found, or cannot be tested.
        reasons: what stands against reading more into it, one line each.

    """

    quantity: str
    arm: str | None
    units: dict[str, int]
    anova: Anova
    test: Permuted | None
    smallest_p: float
    table: pd.DataFrame
    positions: pd.DataFrame
    predecessors: pd.DataFrame
    commutators: pd.DataFrame
    verdict: str
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, None for NaN: fit for JSON."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        frames = {name: part.to_dict("records") for name, part in parts.items() if isinstance(part, pd.DataFrame)}
        return dict(plain(parts | frames))


def ordering_effects(
    results: Results, quantity: str = FUTURE.name, arm: str | None = "none", *, alpha: float = 0.05
) -> OrderingEffects:
    """What the order of stages does to one quantity of the chains' ends.

    Args:
        results: of a study.
        quantity: a name of `limberlm.analysis.arms.QUANTITIES`, or `taught_loss`.
        arm: whose chains; None for the means over arms, one per ordering and seed.
        alpha: the level of the test.

    Raises:
        UserError: no such quantity or arm, one ordering, no finished seed, or a quantity that is of other tasks in each
            ordering.

    """
    return of_ends(ends(results), quantity, arm, alpha=alpha)


def of_ends(
    found: pd.DataFrame, quantity: str = FUTURE.name, arm: str | None = "none", *, alpha: float = 0.05
) -> OrderingEffects:
    """The same, of a table from `limberlm.analysis.arms.ends`."""
    if quantity not in (known := [*NAMES, TAUGHT.name]):
        raise UserError(f'"{quantity}": no such quantity{nearest(quantity, known)}; there are {", ".join(known)}')
    if arm is not None and arm not in (arms := list(found["arm"].unique())):
        raise UserError(f'arms: the study has no chain of arm "{arm}", but of {", ".join(arms)}')
    refuse_other_tasks(found, quantity)
    own = found if arm is None else found[found["arm"] == arm]
    return effects_of(own.assign(value=own[quantity]), quantity=quantity, arm=arm, alpha=alpha)


def effects_of(
    table: pd.DataFrame, *, quantity: str = "value", arm: str | None = None, alpha: float = 0.05, draws: int = DRAWS
) -> OrderingEffects:
    """The same, of a plain table with the columns `ordering`, `seed`, `value`, and `arm` where there are several.

    Over several arms every seed's values are means over them, and labels are exchanged in all arms of a seed alike:
    arms of one seed are no repetitions (our choice).

    >>> chains = [("a > b", seed, 1.0) for seed in range(6)] + [("b > a", seed, 2.0) for seed in range(6)]
    >>> table = pd.DataFrame(chains, columns=["ordering", "seed", "value"])
    >>> found = effects_of(table)
    >>> found.verdict, found.test.p, found.anova.eta_squared
    ('difference found', 0.03125, 1.0)
    """
    box = cells(table)
    spread, seeds = anova(box.values), len(box.seeds)
    reach = smallest_p(len(box.orderings), seeds)
    test = permuted(box.by_seed, draws=draws) if reach <= alpha else None
    units = {"orderings": len(box.orderings), "seeds": seeds, "arms": len(box.arms), "chains": box.values.size}
    return OrderingEffects(
        quantity=quantity,
        arm=arm,
        units=units,
        anova=spread,
        test=test,
        smallest_p=reach,
        table=_means(box),
        positions=_effects(box, positions(box.orderings)),
        predecessors=_effects(box, predecessors(box.orderings)),
        commutators=_effects(box, commutators(box.orderings)),
        verdict=NOT_TESTED if test is None else FOUND if test.p <= alpha else NOT_FOUND,
        reasons=(*box.left_out, *_reasons(box, spread, reach, alpha)),
    )


def told_reasons(found: Sequence[OrderingEffects]) -> list[str]:
    """The reasons of several quantities or arms, each once: whose it is, where it is not of all."""
    having: dict[str, list[str]] = {}
    for effects in found:
        for reason in effects.reasons:
            having.setdefault(reason, []).append(f"{effects.quantity} of {effects.arm or 'all arms'}")
    return [reason if len(whose) == len(found) else f"{', '.join(whose)}: {reason}" for reason, whose in having.items()]


def _means(box: Cells) -> pd.DataFrame:
    rows = zip(box.orderings, box.by_seed.T, strict=True)
    found = ({"ordering": ARROW.join(stages), **paired(values)} for stages, values in rows)
    return pd.DataFrame(found)[["ordering", "effect", "low", "high"]].rename(columns={"effect": "mean"})


def _effects(box: Cells, contrasts: Iterable[Contrast]) -> pd.DataFrame:
    rows = [
        {**each.named, **paired(box.by_seed @ each.weights), "seeds": len(box.seeds), "confounded": each.confounded}
        for each in contrasts
    ]
    found = pd.DataFrame(rows)
    return found.assign(p_adjusted=holm(found["p"].to_numpy())) if rows else found


def _reasons(box: Cells, spread: Anova, reach: float, alpha: float) -> Iterator[str]:
    seeds, orderings = len(box.seeds), len(box.orderings)
    if seeds == 1:
        yield "one seed: orderings cannot be told from the noise between seeds, and nothing has an interval"
    elif reach > alpha:
        yield f"{orderings} orderings in {seeds} seeds: no p-value below {reach:.2g} can be reached; add seeds"
    if not spread.ss_total:
        yield "every chain has the same value"
    yield from _design(box)


def _design(box: Cells) -> Iterator[str]:
    """What the orderings of the study cannot tell, whatever the numbers."""
    if not moving(box.orderings):
        yield "the orderings are not of the same stages, once each: places and predecessors are not compared"
        return
    contrasts, free = list(predecessors(box.orderings)), len(box.orderings) - 1
    if len(contrasts) > free:
        ways = "one way" if free == 1 else f"{free} ways"
        yield f"{len(box.orderings)} orderings differ in {ways} at most: rows of a table are not separate findings"
    if contrasts and all(each.confounded > 1 - 1e-9 for each in contrasts):
        yield "in this design a stage's predecessor cannot be told from places: each is wholly confounded with them"
    if never := never_after(box.orderings):
        yield f"never run, so nothing is known of: {', '.join(never)}"
    if not any(each.named["matched"] for each in commutators(box.orderings)):
        yield "no two orderings differ in two neighbours alone: those of a commutator also differ elsewhere"
