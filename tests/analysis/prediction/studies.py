"""Studies with a planted truth, as plain tables: independent chains, and trees."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.cells import ChainKey

M0 = ("kl_to_base", "score_before")


def planted(b: float, seed: int, *, through: str = "geometry", sd: float = 0.5) -> pd.DataFrame:
    """36 chains of four rows: three families, four orderings, three seeds, chains with effects of their own.

    The outcome moves by `b` with what is new in the geometry, or by `b` with KL (`through="kl"`), of which the
    geometry is a noisy copy then.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for family, ordering, repeat in itertools.product(range(3), range(4), range(3)):
        kl = np.cumsum(np.abs(rng.normal(0.5, 0.2, 4)))
        chain = rng.normal(0, sd)
        for t in range(4):
            e, score = rng.normal(), 0.5 * t + rng.normal(0, 0.5)
            away = (kl[t] - 0.5 * (t + 1)) / np.sqrt(t + 1)
            g = -0.4 * t + 1.25 * away + e
            moved = b * (e if through == "geometry" else 4 * away)
            y = 0.7 * family - 0.5 * t - 0.3 * kl[t] + 0.3 * score + moved + chain + rng.normal()
            g = g if through == "geometry" else 3 * away + 0.5 * e
            known = {"family": str(family), "ordering": f"o{ordering}", "seed": repeat, "stage_index": t}
            name = {"chain": f"{family} {ordering} {repeat}"}
            rows.append(name | known | {"kl_to_base": kl[t], "score_before": score, "g": g, "y": y})
    return pd.DataFrame(rows)


def chains(count: int, length: int, seed: int, *, effect: float = 0.0, trend: float = 0.0) -> pd.DataFrame:
    """Independent chains whose geometry and outcome have nothing in common but a trend."""
    rng = np.random.default_rng(seed)
    rows = []
    for chain in range(count):
        own = rng.normal(0, effect, 2)
        for t in range(length):
            g, y = own + trend * t * np.array([1, -1]) + rng.normal(size=2)
            rows.append({"chain": f"c{chain}", "stage_index": t, "g": g, "y": y})
    return pd.DataFrame(rows)


def tree(seed: int, b: float = 0.0, *, sd: float = 1.0, arms: int = 4, seeds: int = 3, tasks: int = 1) -> pd.DataFrame:
    """A study: one stage, then three in all orders, under every arm and seed, beginnings shared.

    Geometry and outcome each have effects of arm, seed, tree, stages so far and stage, and noise that is handed down
    from checkpoint to checkpoint, all of size `sd`; what is new in the geometry moves the outcome by `b`.
    """
    rng = np.random.default_rng(seed)
    orders = [("sft", *rest) for rest in itertools.permutations(("math", "code", "safety"))]
    prefixes = sorted({order[:n] for order in orders for n in range(1, 5)}, key=lambda prefix: (len(prefix), prefix))
    sides = [_side(rng, sd, arms, seeds) for _ in range(2)]
    rows = []
    for arm, repeat in itertools.product(range(arms), range(seeds)):
        handed: dict[tuple[str, ...], Any] = {(): np.zeros(2)}
        for prefix in prefixes:
            on = [o for o in orders if o[: len(prefix)] == prefix]
            handed[prefix] = handed[prefix[:-1]] + rng.normal(0, sd / 2, 2)
            e = rng.normal()
            g, y = (_value(side, arm, repeat, prefix) + own for side, own in zip(sides, handed[prefix], strict=True))
            keys = tuple(ChainKey("base", " > ".join(order), f"a{arm}", repeat) for order in on)
            row = {"chains": keys, "node": f"{arm}/{repeat}/{'/'.join(prefix)}", "prefix": prefix, **keys[0]._asdict()}
            row |= {"stage_index": len(prefix), "stage": prefix[-1], "g": g + e}
            rows += [row | {"task": f"t{task}", "y": y + b * e + rng.normal()} for task in range(tasks)]
    return pd.DataFrame(rows)


def _side(rng: np.random.Generator, sd: float, arms: int, seeds: int) -> dict[str, Any]:
    stages = ("sft", "math", "code", "safety")
    named = {what: dict(zip(stages, rng.normal(0, sd, 4), strict=True)) for what in ("seen", "now")}
    return named | {
        "arm": rng.normal(0, sd, arms),
        "seed": rng.normal(0, sd, seeds),
        "tree": rng.normal(0, sd, (arms, seeds)),
    }


def _value(side: dict[str, Any], arm: int, seed: int, prefix: tuple[str, ...]) -> float:
    history = sum(side["seen"][stage] for stage in prefix) + side["now"][prefix[-1]]
    return float(side["arm"][arm] + side["seed"][seed] + side["tree"][arm, seed] + history)
