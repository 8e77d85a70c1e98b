"""One choice, of an ordering or of an arm: every candidate against the one that would be used anyway."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, isfinite
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.advice.power import detectable, needed, needed_to_match
from limberlm.analysis.arms import Quantity, paired
from limberlm.geometry.uncertainty import holm

Floats = NDArray[np.float64]
LEVEL = 0.05
BETTER, WORSE, NOT_FOUND = "better", "worse", "no difference found"
UNMATCHED, UNKNOWN = "not at matched target", "target not shown to match"


@dataclass(frozen=True)
class Rules:
    """What a choice is made by.

    Attributes:
        by: the quantity that candidates are ranked by.
        margin: how far two targets may lie apart and still count as matched, in the target's unit.
        worth: the smallest difference of `by` worth having; how many seeds that takes is told.
        pairs: count every pair of chains, instead of every seed, as a repetition.

    """

    by: Quantity
    margin: float = 0.05
    worth: float = 0.05
    pairs: bool = False


@dataclass(frozen=True)
class Choice:
    """Candidates against the default.

    Attributes:
        of: `ordering` or `arm`.
        default: the candidate that is used unless another is better.
        chosen: the one to use.
        target: the quantity by which targets are matched.
        table: one row per other candidate: first those at matched target, best first, then the rest. `target_...`:
            its target minus the default's, with a 95 % interval; `matched`, whether that lies within the margin;
            `target_seeds`, how many more seeds would show it to, were the two the same. `effect, low, high`: the
            quantity minus the default's; `p`, `p_adjusted` (Holm's over all rows); `agree` of `repetitions`;
            `detectable`, the smallest true difference that was to be found four times in five after adjustment;
            `more_seeds`, how many more would find one as large as `effect`, were it true. Seeds are infinite above a
            thousand repetitions. `verdict`: better, worse, no difference found, not at matched target (the interval
            lies beyond the margin), or target not shown to match (it lies across).
        seeds_for_worth: how many more seeds would find the smallest difference worth having in any candidate.

    """

    of: str
    default: str
    chosen: str
    target: str
    table: pd.DataFrame
    seeds_for_worth: float

    @property
    def row(self) -> dict[str, Any] | None:
        """The row of the chosen one; None for the default."""
        rows = self.table[self.table["candidate"] == self.chosen].to_dict("records")
        return {str(name): value for name, value in rows[0].items()} if rows else None


def choose(ends: pd.DataFrame, of: str, default: str, target: str, rules: Rules) -> Choice:
    """Hold every ordering, or arm, against the default, paired on the other of the two and on the seed.

    Args:
        ends: one row per chain: `ordering, arm, seed`, the target and the quantity.
        of: `ordering` or `arm`.
        default: one of them.
        target: the column of the targets.
        rules: what it is made by.

    """
    keys = ["arm" if of == "ordering" else "ordering", "seed"]
    wanted = {name: ends.pivot(index=keys, columns=of, values=name) for name in (target, rules.by.name)}
    names = [name for name in dict.fromkeys(ends[of]) if name != default]
    found = pd.DataFrame([_against(wanted, name, default, target, rules, len(names)) for name in names])
    found["p_adjusted"] = holm(found["p"].to_numpy())
    found["verdict"] = [_verdict(row, rules.by.better) for _, row in found.iterrows()]
    found = found.drop(columns="beyond")
    better = found["effect"] * -rules.by.better
    found = found.iloc[np.lexsort((better, ~found["matched"]))].reset_index(drop=True)
    best = found[found["verdict"] == BETTER]["candidate"]
    chosen = str(best.iloc[0]) if len(best) else default
    return Choice(of, default, chosen, target, found, float(found.pop("worth").max()))


def _against(
    wide: dict[str, pd.DataFrame], name: str, default: str, target: str, rules: Rules, count: int
) -> dict[str, Any]:
    aims, own = (_differences(wide[of], name, default) for of in (target, rules.by.name))
    seeds = own.index.get_level_values("seed").nunique()
    gap, values = (_repetitions(each, rules.pairs) for each in (aims, own))
    aim, found, n = paired(gap), paired(values), len(values)
    if n > 1 and found["effect"] and not values.std():
        found["p"] = 2.0 ** (1 - n)  # of scores that are counts: as often as signs alone would do that

    def more(repetitions: float) -> float:
        return max(ceil(repetitions * seeds / n) - seeds, 0) if n and isfinite(repetitions) else inf

    spread, target_spread = (float(each.std(ddof=1)) if len(each) > 1 else inf for each in (values, gap))
    return {
        "candidate": name,
        "target_difference": aim["effect"],
        "target_low": aim["low"],
        "target_high": aim["high"],
        "matched": -rules.margin < aim["low"] and aim["high"] < rules.margin,
        "beyond": aim["low"] > rules.margin or aim["high"] < -rules.margin,
        "target_seeds": more(needed_to_match(rules.margin, target_spread)),
        **found,
        "detectable": detectable(spread, n, LEVEL / count),
        "repetitions": n,
        "seeds": seeds,
        "more_seeds": more(needed(found["effect"], spread, LEVEL / count)),
        "worth": more(needed(rules.worth, spread, LEVEL / count)),
    }


def _differences(wide: pd.DataFrame, name: str, default: str) -> pd.Series:
    """Candidate minus default of each pair of chains; what lacks either is left out."""
    return (wide[name] - wide[default]).dropna()


def _repetitions(differences: pd.Series, pairs: bool) -> Floats:
    return np.asarray(differences if pairs else differences.groupby("seed").mean(), float)


def _verdict(row: pd.Series, better: int) -> str:
    if not row["matched"]:
        return UNMATCHED if row["beyond"] else UNKNOWN
    if not row["p_adjusted"] < LEVEL:
        return NOT_FOUND
    return BETTER if row["effect"] * better > 0 else WORSE
