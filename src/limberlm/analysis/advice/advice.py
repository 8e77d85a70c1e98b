"""Which ordering and which intervention to use, by what a study has shown.

What would be used anyway, the first ordering without an intervention, stays unless another is better beyond doubt: the
same in what was to be learnt, and better in what counts, after adjustment for how many were tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.advice.choice import Choice, Rules, choose
from limberlm.analysis.advice.words import choice_sentence, first_sentence
from limberlm.analysis.arms import FUTURE, QUANTITIES, TARGET, TAUGHT, Quantity, ends, paired
from limberlm.analysis.ordering.cells import refuse_other_tasks
from limberlm.analysis.plain import plain
from limberlm.errors import UserError, nearest
from limberlm.study.results.results import Results

BY = {q.name: q for q in QUANTITIES if q.better and q.name not in ("effective_rank", "target_loss", "target_accuracy")}
"""What candidates can be ranked by."""


@dataclass(frozen=True)
class Advice:
    """What to use, and what stands behind it.

    Attributes:
        by: the quantity that candidates are ranked by.
        margin: within which targets count as matched.
        units: how many `chains`, `orderings`, `arms` and `seeds` the study has finished.
        ordering: the ordering to use.
        arm: the arm to use.
        sentence: what to do.
        orderings: every ordering against the default; None where that cannot be answered.
        arms: every arm against the default; None likewise.
        together: the ordering and arm to use against both defaults, where they were run and something changes.
        reasons: what could not be answered, and what stands against reading more into it.

    """

    by: str
    margin: float
    units: dict[str, int]
    ordering: str
    arm: str
    sentence: str
    orderings: Choice | None
    arms: Choice | None
    together: dict[str, float] | None
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, None for NaN and infinity: fit for JSON."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("orderings", "arms"):
            if (choice := parts[name]) is not None:
                own = {field.name: getattr(choice, field.name) for field in fields(choice)}
                parts[name] = own | {"table": choice.table.to_dict("records")}
        return dict(plain(parts))


def advise(results: Results, by: str = FUTURE.name, **rules: Any) -> Advice:
    """Advise by the results of a study; the other arguments are those of `advise_on`."""
    return advise_on(ends(results), by, **rules)


def advise_on(
    found: pd.DataFrame,
    by: str = FUTURE.name,
    *,
    margin: float = 0.05,
    worth: float = 0.05,
    ordering: str | None = None,
    arm: str | None = None,
    pairs: bool = False,
) -> Advice:
    """Advise by a table of chains' ends.

    Orderings are compared over all arms and arms over all orderings, and a seed is one repetition: its chains share
    rows, fresh adapters and beginnings, and answer alike. Targets count as matched where the 95 % interval of their
    difference lies within the margin (two one-sided tests, Schuirmann 1987; the margin is our choice).

    Args:
        found: as from `limberlm.analysis.arms.ends`.
        by: the quantity that candidates are ranked by.
        margin: within which targets count as matched, nats.
        worth: the smallest difference of `by` worth having: how many seeds would find it is told.
        ordering: the default ordering; the study's first, if none is given.
        arm: the default arm; `none`, or the study's first.
        pairs: count every pair of chains as a repetition instead. More is found, and too much where seeds differ in how
            they answer to an arm or ordering.

    Raises:
        UserError: no such quantity, ordering or arm, one seed, or nothing to choose from.

    """
    if by not in BY:
        raise UserError(f'--by: "{by}": cannot rank by that{nearest(by, BY)}; there are {", ".join(BY)}')
    if not 0 < margin < np.inf or not 0 < worth < np.inf:
        raise UserError(f"margin {margin:g} and worth {worth:g}: both must be above 0")
    default = {"ordering": _default(found, "ordering", ordering), "arm": _default(found, "arm", arm)}
    refuse_too_little(found)
    rule, reasons = Rules(BY[by], margin, worth, pairs), list[str]()
    choices = {of: _choice(found, of, name, rule, reasons) for of, name in default.items()}
    use = {of: choice.chosen if choice else default[of] for of, choice in choices.items()}
    together = _together(found, default, use, by)
    told = [choice_sentence(choice, rule) for choice in choices.values() if choice is not None]
    return Advice(
        by=by,
        margin=margin,
        units={"chains": len(found)} | {f"{of}s": found[of].nunique() for of in ("ordering", "arm", "seed")},
        ordering=use["ordering"],
        arm=use["arm"],
        sentence=" ".join([first_sentence(default, use, list(choices.values()), rule.by), *told]),
        orderings=choices["ordering"],
        arms=choices["arm"],
        together=together,
        reasons=(*reasons, *_caveats(found, rule)),
    )


def refuse_too_little(found: pd.DataFrame) -> None:
    """Refuse a study that no advice can be drawn from.

    Raises:
        UserError: it has one ordering and one arm, or one seed.

    """
    if found["ordering"].nunique() == found["arm"].nunique() == 1:
        raise UserError("advise: one ordering and one arm: nothing to choose from; add `orderings` or `interventions`")
    if found["seed"].nunique() == 1:
        raise UserError("advise: one seed: no difference can be told from noise; add `seeds`, three at least")


def _default(found: pd.DataFrame, of: str, given: str | None) -> str:
    there = list(dict.fromkeys(found[of]))
    if given is None:
        return "none" if "none" in there else there[0]
    if given not in there:
        raise UserError(f'--{of}: the study has no "{given}"{nearest(given, there)}; there are {", ".join(there)}')
    return given


def _choice(found: pd.DataFrame, of: str, default: str, rules: Rules, reasons: list[str]) -> Choice | None:
    if found[of].nunique() == 1:
        reasons.append(f"one {of} only ({default}): nothing can be said of others")
        return None
    if of == "arm":
        return choose(found, of, default, TARGET.name, rules)
    try:
        refuse_other_tasks(found, rules.by.name)
        target = _shared_target(found)
    except UserError as error:
        reasons.append(f"orderings are not ranked. {error}")
        return None
    return choose(found, of, default, target.name, rules)


def _shared_target(found: pd.DataFrame) -> Quantity:
    """The last stage's own task where all orderings end with it, else all that their stages teach."""
    if found["tasks"].map(lambda tasks: tasks[-1]).nunique() == 1:
        return TARGET
    refuse_other_tasks(found, TAUGHT.name)
    return TAUGHT


def _together(found: pd.DataFrame, default: dict[str, str], use: dict[str, str], by: str) -> dict[str, float] | None:
    """What is to be used against what would be used anyway, as they were run: over seeds."""
    if use == default:
        return None
    new, old = (_cell(found, which)[by] for which in (use, default))
    differences = (new - old).dropna()
    return paired(differences.to_numpy(float)) if len(differences) else None


def _cell(found: pd.DataFrame, which: dict[str, str]) -> pd.DataFrame:
    """The chains of one ordering and arm, by seed."""
    return found[(found["ordering"] == which["ordering"]) & (found["arm"] == which["arm"])].set_index("seed")


def _caveats(found: pd.DataFrame, rules: Rules) -> Iterator[str]:
    complete = found["ordering"].nunique() * found["arm"].nunique() * found["seed"].nunique()
    if len(found) < complete:
        yield f"{complete - len(found)} of {complete} chains are not finished: pairs that lack one are left out"
    if lost := int(found[rules.by.name].isna().sum()):
        yield f"{lost} chains have no {rules.by.name}: they are left out"
    gain = abs(float(found["target_gain"].mean())) if "target_gain" in found else np.inf
    if gain < rules.margin:
        yield (
            f"the last stage moved its target by {gain:.2g} nats, less than the margin of {rules.margin:g}: matched "
            "says little there; try a smaller --margin"
        )
    if min(found["ordering"].nunique(), found["arm"].nunique()) > 1:
        yield "an arm is judged over all orderings, and an ordering over all arms: one may help in some of them only"
