"""Randomised arms: does what they do to the outcome go the way of the geometry, or of the distance from the base?

An arm was assigned by the design, so what it does to geometry, to KL and to the outcome are effects. That the outcome
is moved *through* the geometry is not randomised by any arm. Arms that move the one and hold the other are the best
that a study can offer on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.arms import KEYS, ends, paired
from limberlm.analysis.prediction.nodes import Reader, reader
from limberlm.errors import UserError
from limberlm.geometry.uncertainty import holm
from limberlm.study.plan.plan import Chain
from limberlm.study.results.results import Results

Floats = NDArray[np.float64]
GEOMETRY, KL, OUTCOME, TARGET = "effective_rank", "kl_to_base", "future_loss", "target_loss"
MEASURES = (GEOMETRY, KL, OUTCOME, TARGET)
MARGIN = 0.25
TARGET_MARGIN = 0.1
KINDS = 3
FEWEST_PAIRS = 4
DRAWS = 2000
CONFOUNDING = (
    "a x b is an effect through the geometry only if nothing unmeasured moves both geometry and outcome, which no arm "
    "randomises."
)
WITHOUT_KL, WITHOUT_GEOMETRY = "moves geometry without KL", "moves KL without geometry"


@dataclass(frozen=True)
class Mediation:
    """What arms do, and what may be said of the way.

    Attributes:
        table: one row per arm: `arm, kind, pairs`; for each of effective_rank (per cent), kl_to_base, future_loss and
            target_loss the paired effect `..., ..._low, ..._high, ..._p` (Holm's over arms) and `..._state`; `matched`,
            whether its target score is equal to none's within the margin; `class`; `indirect, indirect_low,
            indirect_high`, a x b.
        margins: how much of each counts as nothing.
        conditions: whether (i), (ii) and (iii) hold.
        words: sentences.
        reasons: what could not be answered, and why.

    """

    table: pd.DataFrame
    margins: dict[str, float]
    conditions: dict[str, bool]
    words: tuple[str, ...]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        rest = {name: getattr(self, name) for name in ("margins", "conditions", "words", "reasons")}
        return {"arms": self.table.to_dict("records")} | rest


def mediation(results: Results, none: str = "none", seed: int = 0, *, read: Reader | None = None) -> Mediation:
    """What the arms of a run do to geometry, to KL and to what can still be learnt.

    Args:
        results: the run.
        none: the arm that the others are held against.
        seed: of the bootstrap.
        read: a `reader` of the run, so that each checkpoint is read once.

    Raises:
        UserError: no chain is finished, there is no arm but one, or one of the four quantities was not measured.

    """
    table = ends(results)
    chains = [chain for chain in results.chains if chain.control is None]
    read = read or reader(results)
    rows = [
        {"arm": chain.arm, "ordering": " > ".join(chain.ordering), "seed": chain.seed, "kind": _kind(results, chain)}
        | {KL: reading.numbers.get(KL, np.nan)}
        for chain in chains
        if (reading := read(chain.nodes[-1])) is not None
    ]
    return mediation_of(table.merge(pd.DataFrame(rows), on=["arm", *KEYS]), none, seed)


def mediation_of(table: pd.DataFrame, none: str = "none", seed: int = 0) -> Mediation:
    """The same of a table of chains' ends, as from `ends`, with `kl_to_base` and, if arms are of a kind, `kind`.

    What counts as nothing (our choice): a quarter of what the chains of none did to the base, and a tenth of it for the
    target. An arm *holds* a quantity if its interval lies within, *moves* it if Holm's p is below 5 % and it does not
    hold it; the rest is unclear.

    Raises:
        UserError: as in `mediation`.

    """
    if KL not in table or not table[KL].notna().any():
        raise UserError("mediation: KL to the base was not measured; set `measure: {against_base: true}` and run again")
    if absent := [name for name in MEASURES if not table[name].notna().any()]:
        raise UserError(f"mediation: no chain has {absent[0]}; measure it, and run again")
    if none not in set(table["arm"]) or table["arm"].nunique() < 2:
        raise UserError(f'mediation: needs an arm beside "{none}"; add one under `interventions`')
    plain = table[table["arm"] == none]
    margins = _margins(plain)
    differences = {arm: _differences(own, plain) for arm, own in table.groupby("arm", sort=False) if arm != none}
    kinds = dict(zip(table["arm"], table["kind"] if "kind" in table else table["arm"], strict=True))
    rows = [_effects(str(arm), kinds[arm], changes) for arm, changes in differences.items() if len(changes)]
    if not rows:
        raise UserError(f'mediation: no chain of another arm has the ordering and seed of one of "{none}"')
    found = _judged(pd.DataFrame(rows), margins)
    indirect, slope = _indirect(differences, seed)
    found = found.merge(indirect, on="arm", how="left")
    conditions = _conditions(found)
    return Mediation(found, margins, conditions, _words(found, conditions, margins, slope), _reasons(found))


def _kind(results: Results, chain: Chain) -> str:
    """What an arm adds, weights apart: the same intervention at two weights is one kind."""
    for node in chain.nodes:
        if chosen := results.nodes[node].interventions:
            kinds = (f"{name} {settings.get('kind', '')}".strip() for name, settings in sorted(chosen.items()))
            return " + ".join(kinds)
    return chain.arm


def _margins(plain: pd.DataFrame) -> dict[str, float]:
    moved = {
        GEOMETRY: 100 * (np.log(plain[GEOMETRY]) - np.log(plain[f"base_{GEOMETRY}"])),
        KL: plain[KL],
        OUTCOME: plain[OUTCOME] - plain[f"base_{OUTCOME}"],
        TARGET: plain["target_gain"],
    }
    share = {name: TARGET_MARGIN if name == TARGET else MARGIN for name in MEASURES}
    return {name: share[name] * abs(float(np.mean(moved[name]))) for name in MEASURES}


def _differences(own: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Own minus none of each pair of ordering and seed that both have, geometry in per cent."""
    a, b = (part.set_index(KEYS)[list(MEASURES)] for part in (own, plain))
    shared = a.index.intersection(b.index)
    a, b = (part.loc[shared].assign(**{GEOMETRY: 100 * np.log(part.loc[shared, GEOMETRY])}) for part in (a, b))
    return (a - b).dropna()


def _effects(arm: str, kind: str, changes: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm, "kind": kind, "pairs": len(changes)}
    for name in MEASURES:
        effect = paired(changes[name].to_numpy(np.float64))
        row |= {name: effect["effect"]} | {f"{name}_{part}": effect[part] for part in ("low", "high", "p")}
    return row


def _judged(found: pd.DataFrame, margins: dict[str, float]) -> pd.DataFrame:
    for name in MEASURES:
        found[f"{name}_p"] = holm(found[f"{name}_p"].to_numpy(np.float64))
        found[f"{name}_state"] = [_state(row, name, margins[name]) for row in found.to_dict("records")]
    found["matched"] = found[f"{TARGET}_state"] == "held"
    found["class"] = [_class(row[f"{GEOMETRY}_state"], row[f"{KL}_state"]) for row in found.to_dict("records")]
    return found


def _state(row: dict[Any, Any], name: str, margin: float) -> str:
    if -margin < row[f"{name}_low"] and row[f"{name}_high"] < margin:
        return "held"
    return "moved" if row[f"{name}_p"] < 0.05 else "unclear"


def _class(geometry: str, kl: str) -> str:
    names = {
        ("moved", "held"): WITHOUT_KL,
        ("held", "moved"): WITHOUT_GEOMETRY,
        ("moved", "moved"): "moves both",
        ("held", "held"): "moves neither",
    }
    return names.get((geometry, kl), "unclear")


def _conditions(found: pd.DataFrame) -> dict[str, bool]:
    """(i) an arm moves the geometry, (ii) one moves the outcome, (iii) the outcome follows geometry and not KL."""
    free, other = (found[found["class"] == name] for name in (WITHOUT_KL, WITHOUT_GEOMETRY))
    signs = set(np.sign(free[GEOMETRY] * free[OUTCOME]))
    follows = bool(free[f"{OUTCOME}_state"].eq("moved").all()) and len(signs) == 1
    ignores = len(other) > 0 and bool(other[f"{OUTCOME}_state"].eq("held").all())
    return {
        "i": bool(found[f"{GEOMETRY}_state"].eq("moved").any()),
        "ii": bool(found[f"{OUTCOME}_state"].eq("moved").any()),
        "iii": free["kind"].nunique() >= KINDS and follows and ignores,
    }


def _indirect(differences: dict[Any, pd.DataFrame], seed: int) -> tuple[pd.DataFrame, float]:
    """The indirect effect a x b of every arm with its interval, pairs of (ordering, seed) drawn together; and b itself.

    a is the arm's effect on the geometry; b is how the outcome goes with it across pairs inside an arm, KL held.
    """
    whole = pd.concat(differences, names=["arm"]).reset_index()
    pairs = whole.groupby(KEYS).ngroup().to_numpy()
    arms = list(dict.fromkeys(whole["arm"]))
    values, codes = whole[[GEOMETRY, KL, OUTCOME]].to_numpy(np.float64), pd.factorize(whole["arm"])[0]
    found, slope = _through(values, codes, np.ones(len(whole)), len(arms))
    rng, count = np.random.default_rng(seed), int(pairs.max()) + 1
    times = rng.multinomial(count, np.full(count, 1 / count), DRAWS)[:, pairs]
    drawn = np.array([_through(values, codes, weights, len(arms))[0] for weights in times])
    enough = count >= FEWEST_PAIRS and np.isfinite(drawn).any(axis=0).all()
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0) if enough else np.full((2, len(arms)), np.nan)
    return pd.DataFrame({"arm": arms, "indirect": found, "indirect_low": low, "indirect_high": high}), slope


def _through(values: Floats, arms: NDArray[np.intp], weights: NDArray[Any], count: int) -> tuple[Floats, float]:
    """The products a x b [arms] and b, by weighted least squares inside arms; NaN where there is no answer."""
    total = np.bincount(arms, weights, count)
    with np.errstate(invalid="ignore"):
        means = np.column_stack([np.bincount(arms, weights * column, count) for column in values.T]) / total[:, None]
    inside = (values - means[arms])[weights > 0] * np.sqrt(weights[weights > 0])[:, None]
    if np.linalg.matrix_rank(inside[:, :1]) < 1:
        return np.full(count, np.nan), float("nan")
    slope = float(np.linalg.lstsq(inside[:, :2], inside[:, 2], rcond=1e-9)[0][0])
    return means[:, 0] * slope, slope


def _words(
    found: pd.DataFrame, conditions: dict[str, bool], margins: dict[str, float], slope: float
) -> tuple[str, ...]:
    said = [*_of_class(found, WITHOUT_KL, "the geometry"), *_of_class(found, WITHOUT_GEOMETRY, "KL")]
    if all(conditions.values()):
        said.append(
            "Consistent with mediation by the geometry: the outcome follows it where KL is held, and not KL alone."
        )
    else:
        lacking = [text for name, text in _LACKING.items() if not conditions[name]]
        said.append(f"Nothing is said of mediation: {'; '.join(lacking)}.")
    matched = ", ".join(found.loc[found["matched"], "arm"]) or "none"
    said.append(
        f"Equal target loss within {margins[TARGET]:.3g} nats (the interval lies inside): {matched}; the other arms "
        "are compared at unequal targets, and were not read again at an earlier checkpoint of equal score."
    )
    told = f"b = {slope:+.3g} nats per per cent of effective rank inside arms, KL held: "
    return (*said, f"{'b is not known: ' if np.isnan(slope) else told}{CONFOUNDING}")


_LACKING = {
    "i": "no arm is found to move the geometry",
    "ii": "no arm is found to move the outcome",
    "iii": f"it takes {KINDS} kinds of arm that move geometry without KL, all of which the outcome follows, and one "
    "that moves KL without geometry, which it does not",
}


def _of_class(found: pd.DataFrame, name: str, what: str) -> Iterator[str]:
    arms = found[found["class"] == name]
    if not len(arms):
        yield f"No arm is found that {name}."
    for row in arms.to_dict("records"):
        state = {"moved": "moves with", "held": "stays, whatever", "unclear": "may or may not follow"}[
            row[f"{OUTCOME}_state"]
        ]
        does = "" if state != "stays, whatever" else " does"
        yield f"{row['arm']} {name}; the outcome {state} {what}{does} ({row[OUTCOME]:+.3g} nats)."


def _reasons(found: pd.DataFrame) -> tuple[str, ...]:
    few = found[found["pairs"] < FEWEST_PAIRS]
    checks: list[tuple[bool, Callable[[], str]]] = [
        (len(few) > 0, lambda: f"fewer than {FEWEST_PAIRS} pairs: {', '.join(few['arm'])}; intervals say little"),
        (bool(found["indirect"].isna().all()), lambda: "a x b: the geometry does not vary inside arms"),
    ]
    return tuple(text() for holds, text in checks if holds)
