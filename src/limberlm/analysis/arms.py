"""Arms against none: what each intervention does to the geometry, to what is taught, and to what can still be learnt.

Every chain under an arm is paired with the chain of the same ordering and seed without one, which saw the same rows and
began from the same fresh adapters. An effect is the mean over these pairs with Student's interval; the share of the
target gain that is kept is a ratio of two such means, with Fieller's. What the chains without one did to the base says
how much there was to prevent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import nct, t

from limberlm.errors import UserError
from limberlm.geometry.uncertainty import holm
from limberlm.study.results.results import Results

Floats = NDArray[np.float64]
KEYS = ["ordering", "seed"]
POWER = 0.8


@dataclass(frozen=True)
class Quantity:
    """One number of a chain's end, and which way is better.

    Attributes:
        name: in the table.
        what: in words, with its unit.
        better: 1 if more of it is, -1 if less is, 0 where neither is by itself.
        scale: `difference`, or `percent` for a change in per cent of none's value (a difference of logarithms).

    """

    name: str
    what: str
    better: int
    scale: str = "difference"


GEOMETRY = Quantity("effective_rank", "effective rank of the depth band, change in %", 1, "percent")
FUTURE = Quantity("future_loss", "loss on future tasks after learning them, nats", -1)
TARGET = Quantity("target_loss", "held-out loss on the last stage's own task, nats", -1)
OTHERS = (
    Quantity("target_accuracy", "accuracy on the last stage's own task", 1),
    Quantity("earlier_loss", "held-out loss on the tasks of the stages before it, nats", -1),
    Quantity("ood_loss", "loss on the out-of-domain splits of the chain's tasks, nats", -1),
    Quantity("prose_loss", "loss on held-out prose, nats", -1),
    Quantity("future_score", "accuracy on future tasks after learning them", 1),
)
QUANTITIES = (GEOMETRY, TARGET, FUTURE, *OTHERS)
TAUGHT = Quantity("taught_loss", "held-out loss on the tasks of all its stages, nats", -1)
"""In `ends` beside the others: a target that orderings share whose last stages differ."""
NAMES = [quantity.name for quantity in QUANTITIES]
_BASES = [f"base_{name}" for name in NAMES]
KEPT = "target_kept"
NOT_TESTED = "not tested"
ORDER = list(dict.fromkeys([GEOMETRY.name, KEPT, FUTURE.name, *NAMES]))
"""The three ways of the report first: geometry, target gain kept, future tasks."""


def ends(results: Results) -> pd.DataFrame:
    """One row per finished chain that is no control: arm, ordering, seed, and the quantities at its end.

    `target_gain` is how much lower the held-out loss on the last stage's own task is than the base's: what that stage
    taught, before another could undo it. `tasks` are what its stages taught, in order. `base_...` is each quantity of
    the base, on the same tasks.

    Raises:
        UserError: there is no such chain yet.

    """
    geometry, outcomes = results.table("geometry"), results.table("outcomes")
    rows = list(_rows(results, geometry, outcomes)) if len(geometry) and len(outcomes) else []
    if not rows:
        raise UserError(f"{results.store.root}: no chain is finished and measured yet; run the study first")
    return pd.DataFrame(rows)


def arms_table(table: pd.DataFrame, none: str = "none") -> pd.DataFrame:
    """Every arm against `none`, one row per arm and quantity.

    Columns: `arm, quantity, effect, low, high` (95 %), `p`, `p_adjusted` (Holm's over the arms of a quantity), `pairs`,
    `agree` (how many of them differ to the side of their mean), `detectable` (the smallest true effect that this many
    pairs, this variable, would find four times in five), and `verdict`: helps, harms, no difference found, or not
    tested (below two pairs, or of a share where there is no gain). `target_kept` is the share of none's target gain
    that the arm keeps; its p asks whether any of it is lost or added.

    Pairs count as independent. Chains of one seed share their beginnings and their rows: where seeds differ in how
    they answer to an arm, the intervals are too narrow.

    Args:
        table: as from `ends`.
        none: the arm that the others are held against.

    Raises:
        UserError: there is no such arm, or nothing to compare it with.

    """
    if none not in (arms := list(table["arm"].unique())):
        told = ", ".join(arms)
        raise UserError(f'arms: the study has no chain of arm "{none}" to compare the others with, but of {told}')
    plain = table[table["arm"] == none].set_index(KEYS)
    rows = []
    for arm in (name for name in arms if name != none):
        own = table[table["arm"] == arm].set_index(KEYS)
        shared = own.index.intersection(plain.index)
        rows += list(_compared(arm, own.loc[shared], plain.loc[shared]))
    if not rows:
        raise UserError("arms: the study has one arm only; add others under `interventions`")
    found = pd.DataFrame(rows)
    found["p_adjusted"] = found.groupby("quantity")["p"].transform(lambda p: holm(p.to_numpy()))
    found["verdict"] = [_verdict(row) for _, row in found.iterrows()]
    return found.sort_values("quantity", key=lambda names: names.map(ORDER.index), kind="stable", ignore_index=True)


def lacking(table: pd.DataFrame, planned: int) -> list[str]:
    """What is left out for want of it, one line each: ends of `planned` chains, and quantities that some ends lack.

    >>> lacking(pd.DataFrame({"future_loss": [1.0, math.nan], "ood_loss": [1.0, 2.0]}), 3)
    ['2 of 3 chains are finished and measured; the others are left out', '1 of 2 has no future_loss: left out of it']
    """
    unfinished = f"{len(table)} of {planned} chains are finished and measured; the others are left out"
    counts = {name: int(table[name].isna().sum()) for name in [*NAMES, TAUGHT.name] if name in table}
    some = {name: count for name, count in counts.items() if 0 < count < len(table)}
    return [
        *([unfinished] if len(table) < planned else []),
        *(f"{n} of {len(table)} {'has' if n == 1 else 'have'} no {name}: left out of it" for name, n in some.items()),
    ]


def wear(table: pd.DataFrame, none: str = "none") -> pd.DataFrame:
    """What the chains of `none` did to the base, one row per quantity: what there is to prevent.

    Columns as of `arms_table`, without arm, adjustment and verdict. The base is one checkpoint: its own error is not in
    the interval, which is over chains.

    Args:
        table: as from `ends`.
        none: the arm without an intervention.

    """
    plain = table[table["arm"] == none]
    return pd.DataFrame(_changes(plain, plain[_BASES].rename(columns=dict(zip(_BASES, NAMES, strict=True)))))


def paired(differences: Floats) -> dict[str, float]:
    """Mean of paired differences [n], Student's 95 % interval, p against zero, detectable effect, how many agree.

    Below two pairs there is only a mean. Differences that are all the same have no spread: the interval is a point.

    >>> {name: round(value, 3) for name, value in paired(np.array([1.0, 2.0, 3.0])).items()}
    {'effect': 2.0, 'agree': 3, 'low': -0.484, 'high': 4.484, 'p': 0.074, 'detectable': 3.264}

    """
    n, mean = len(differences), float(differences.mean()) if len(differences) else math.nan
    found = {"effect": mean, "agree": int((np.sign(differences) == np.sign(mean)).sum())}
    if n < 2:
        return found | dict.fromkeys(("low", "high", "p", "detectable"), math.nan)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return found | {"low": mean - half, "high": mean + half, "p": p, "detectable": _noncentral(n) * error}


def fieller(top: Floats, bottom: Floats) -> tuple[float, float, float]:
    """The ratio of two paired means, top [n] over bottom [n], and Fieller's (1954) 95 % interval for it.

    NaN where the bottom mean is within two standard errors of zero (our choice): there is no gain to keep a share of.

    >>> [round(x, 3) for x in fieller(np.array([1.9, 2.1, 2.0, 2.2]), np.array([2.0, 2.1, 2.2, 2.3]))]
    [0.953, 0.895, 1.014]

    """
    n = len(top)
    if n < 2:
        return math.nan, math.nan, math.nan
    a, b = float(top.mean()), float(bottom.mean())
    (vaa, vab), (_, vbb) = np.cov(top, bottom) / n
    if abs(b) <= 2 * math.sqrt(vbb):
        return math.nan, math.nan, math.nan
    g = float(t.ppf(0.975, n - 1)) ** 2
    # the ratios r for which (a - r b)^2 <= g var(a - r b)
    quadratic, linear, constant = float(b * b - g * vbb), float(-2 * (a * b - g * vab)), float(a * a - g * vaa)
    if quadratic <= 0:
        return a / b, -math.inf, math.inf
    root = math.sqrt(max(linear * linear - 4 * quadratic * constant, 0.0))
    return a / b, (-linear - root) / (2 * quadratic), (-linear + root) / (2 * quadratic)


@cache
def _noncentral(n: int) -> float:
    """How many standard errors a true effect must be, for a two-sided test at 5 % to find it with the wanted power."""
    limit, low, high = float(t.ppf(0.975, n - 1)), 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if nct.sf(limit, n - 1, middle) < POWER else (low, middle)
    return high


def _compared(arm: str, own: pd.DataFrame, plain: pd.DataFrame) -> Iterator[dict[str, Any]]:
    kept = own["target_gain"].to_numpy(float), plain["target_gain"].to_numpy(float)
    there = np.isfinite(kept[0]) & np.isfinite(kept[1])
    lost = paired(kept[0][there] - kept[1][there])
    ratio, low, high = fieller(kept[0][there], kept[1][there])
    if math.isnan(ratio):  # no gain of which a share could be lost
        lost |= dict.fromkeys(("p", "detectable"), math.nan)
    yield {"arm": arm, "quantity": KEPT, **lost, "effect": ratio, "low": low, "high": high, "pairs": int(there.sum())}
    yield from ({"arm": arm, **change} for change in _changes(own, plain))


def _changes(to: pd.DataFrame, since: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for quantity in QUANTITIES:
        a, b = to[quantity.name].to_numpy(float), since[quantity.name].to_numpy(float)
        difference = 100 * (np.log(a) - np.log(b)) if quantity.scale == "percent" else a - b
        there = np.isfinite(difference)
        if there.any():
            yield {"quantity": quantity.name, **paired(difference[there]), "pairs": int(there.sum())}


def _verdict(row: pd.Series) -> str:
    if math.isnan(row["p_adjusted"]):
        return NOT_TESTED
    if not row["p_adjusted"] < 0.05:
        return "no difference found"
    if row["quantity"] == KEPT:
        return "helps" if row["effect"] > 1 else "harms"
    better = next(quantity.better for quantity in QUANTITIES if quantity.name == row["quantity"])
    return "helps" if row["effect"] * better > 0 else "harms"


def _rows(results: Results, geometry: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[dict[str, Any]]:
    wanted = outcomes[outcomes["node"].isin({chain.nodes[i] for chain in results.plan.chains for i in (0, -1)})]
    by_node = {str(node): own for node, own in wanted.drop_duplicates(_ROW).groupby("node")}
    ranks = geometry[
        (geometry["metric"] == "effective_rank")
        & (geometry["site"] == "band")
        & (geometry["convention"] == "rms")
        & (geometry["domain"] == "all")
    ].drop_duplicates("node")
    rank = dict(zip(ranks["node"], ranks["value"], strict=True))
    for chain in results.plan.chains:
        start, end = chain.nodes[0], chain.nodes[-1]
        if chain.control is None and {start, end} <= by_node.keys() & rank.keys():
            tasks = [results.record(node)["task"] for node in chain.nodes[1:]]
            base, row = (_at(by_node[node], tasks) | {GEOMETRY.name: rank[node]} for node in (start, end))
            gain = {"target_gain": base[TARGET.name] - row[TARGET.name]}
            named = {
                "arm": chain.arm,
                "ordering": " > ".join(chain.ordering),
                "seed": chain.seed,
                "tasks": tuple(tasks),
            }
            yield named | row | gain | {f"base_{name}": value for name, value in base.items()}


_ROW = ["node", "outcome", "task", "split", "step"]


def _at(outcomes: pd.DataFrame, tasks: Sequence[str]) -> dict[str, float]:
    """The quantities of one checkpoint of a chain that teaches these tasks, each a mean over them.

    NaN over none, and where one of them is: a mean over the others would be of other tasks than the next chain's.
    """
    rows = list(zip(*(outcomes[name].tolist() for name in ("outcome", "split", "task", "value")), strict=True))

    def mean(outcome: str, of: Collection[str] | None, split: str = "in_domain") -> float:
        own = [(task, value) for name, where, task, value in rows if name == outcome and where == split]
        chosen = [value for task, value in own if of is None or task in of]
        return float(np.mean(chosen)) if chosen else math.nan

    last, earlier = {tasks[-1]}, set(tasks[:-1]) - {tasks[-1]}
    return {
        "target_loss": mean("loss", last),
        "target_accuracy": mean("accuracy", last),
        "earlier_loss": mean("loss", earlier),
        TAUGHT.name: mean("loss", set(tasks)),
        "ood_loss": mean("loss", set(tasks), "out_of_domain"),
        "prose_loss": mean("loss", {"prose"}),
        "future_loss": mean("loss_after", None),
        "future_score": mean("future_score", None),
    }
