"""Does a metric beat what is cheaper: each on its own on top of the covariates, on the same folds and rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.models import Floats, Model

DRAWS = 2000
FEWEST = 5  # sets of chains, below which a bootstrap over them says nothing


def interval(top: Floats, bottom: Floats, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % interval of sum(top) / sum(bottom) over sets of chains [units], by a percentile bootstrap.

    Sets in which nothing was tested do not count. Approximate: the folds share their training rows. NaN below five.
    """
    there = bottom > 0
    top, bottom = top[there], bottom[there]
    if len(top) < FEWEST:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), draws)
    low, high = np.quantile((times @ top) / (times @ bottom), [0.025, 0.975])
    return float(low), float(high)


def rivals_table(model: Model, rivals: dict[str, Floats], cells: dict[str, Floats], seed: int = 0) -> pd.DataFrame:
    """Every rival and every cell on top of the covariates without rivals, best first.

    Columns: `name, kind` (rival or geometry), `delta, low, high` (delta R^2 with its interval), and of geometry
    `best_rival, beyond, beyond_low, beyond_high` (its delta R^2 minus the best rival's, paired over sets of chains) and
    `wins`, whether that interval lies above 0. Which rival is the best is read off the same rows, which favours it.

    Args:
        model: of the covariates without rivals.
        rivals: their columns [rows].
        cells: those of geometry, on the same rows.
        seed: of the bootstrap.

    """
    base, total = model.by_set(), model.totals_by_set()
    gains = {name: base - model.by_set(column[:, None]) for name, column in {**rivals, **cells}.items()}
    best = max(rivals, key=lambda name: float(gains[name].sum()), default="")
    rows = []
    for name, gain in gains.items():
        low, high = interval(gain, total, seed)
        row = {"name": name, "kind": "rival" if name in rivals else "geometry"}
        row |= {"delta": gain.sum() / total.sum(), "low": low, "high": high}
        rows.append(row | (_beyond(gain - gains[best], total, best, seed) if best and name in cells else {}))
    return pd.DataFrame(rows).sort_values("delta", ascending=False, ignore_index=True) if rows else pd.DataFrame()


def _beyond(more: Floats, total: Floats, best: str, seed: int) -> dict[str, object]:
    low, high = interval(more, total, seed)
    beyond = float(more.sum() / total.sum())
    return {"best_rival": best, "beyond": beyond, "beyond_low": low, "beyond_high": high, "wins": bool(low > 0)}


def winners(table: pd.DataFrame) -> Sequence[str]:
    """The cells that beat the best rival."""
    return list(table.loc[table["wins"].eq(True), "name"]) if "wins" in table else []
