"""Does the geometry of a checkpoint predict what comes next, beyond cheap covariates, in chains not seen?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.cells import CHEAP, NUMBERS, REGISTERED, RIVALS, outcome_named
from limberlm.analysis.prediction.gains import Asked, gains_table
from limberlm.analysis.prediction.mixed import MISSING, mixed_table
from limberlm.analysis.prediction.models import fit
from limberlm.analysis.prediction.nodes import Reader
from limberlm.analysis.prediction.permutation import Exchange, Kind, exchange
from limberlm.analysis.prediction.power import detectable, units_to_settle
from limberlm.analysis.prediction.rivals import rivals_table
from limberlm.analysis.prediction.splits import schemes
from limberlm.analysis.prediction.table import complete, design_table, geometry_columns
from limberlm.analysis.prediction.verdict import left_out, verdict
from limberlm.study.results.results import Results


@dataclass(frozen=True)
class Prediction:
    """What was found.

    Attributes:
        outcome: what was predicted.
        units: how many `families, orderings, arms, seeds, chains, sets` (of chains that share no checkpoint with
            another), `nodes, rows`, and `missing`: rows left out, by what they lack.
        table: one row per cell and scheme, as from `gains_table`.
        rivals: as from `rivals_table`; empty where no rival was measured.
        mixed: as from `mixed_table`; description alone.
        power: per registered cell what the chains could have seen, and how many would settle what was seen.
        exchange: how trajectories were exchanged, in how many arrangements, and the smallest p they reach.
        verdict: sentences.
        reasons: what could not be answered, and why.

    """

    outcome: str
    units: dict[str, Any]
    table: pd.DataFrame
    rivals: pd.DataFrame
    mixed: pd.DataFrame
    power: pd.DataFrame
    exchange: dict[str, Any]
    verdict: tuple[str, ...]
    reasons: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        frames = {name: getattr(self, name).to_dict("records") for name in ("table", "rivals", "mixed", "power")}
        rest = {name: getattr(self, name) for name in ("outcome", "units", "exchange", "verdict", "reasons")}
        return rest | frames


def prediction(
    results: Results,
    outcome: str = "loss_after",
    permutations: int = 999,
    seed: int = 0,
    *,
    ridge: bool = False,
    exploratory: bool = True,
    read: Reader | None = None,
) -> Prediction:
    """Predict what comes after the checkpoints of a run.

    Args:
        results: the run, finished or not.
        outcome: `loss_after`, `future_score`, `ood_loss` or `calibration`.
        permutations: exchanges of trajectories.
        seed: of what is drawn.
        ridge: shrink coefficients, in place of least squares.
        exploratory: whether cells that are not registered are looked at too.
        read: a `reader` of the run, so that several predictions read each checkpoint once.

    Raises:
        UserError: no such outcome, or nothing that has it.

    """
    return prediction_of(
        design_table(results, outcome, read),
        outcome=outcome_named(outcome).what,
        permutations=permutations,
        seed=seed,
        ridge=ridge,
        exploratory=exploratory,
    )


def prediction_of(
    table: pd.DataFrame,
    *,
    outcome: str = "the outcome",
    cells: Sequence[str] = REGISTERED,
    permutations: int = 999,
    seed: int = 0,
    kind: Kind | None = None,
    ridge: bool = False,
    exploratory: bool = True,
    described: bool = True,
) -> Prediction:
    """The same of a plain table: `y`, `chain` (or what `complete` makes it of), covariates and geometry by name.

    Args:
        table: one row per checkpoint and task.
        outcome: what `y` is, in words.
        cells: the registered cells; every other numeric column that is no covariate and no rival is exploratory.
        permutations: exchanges of trajectories.
        seed: of what is drawn.
        kind: of exchange, in place of the one that fits the table.
        ridge: shrink coefficients.
        exploratory: whether the other columns are looked at.
        described: whether the mixed-effects description is fitted.

    Raises:
        UserError: as in `complete`.

    """
    ready = _ready(complete(table), cells)
    rows, reasons = ready.rows, list(ready.reasons)
    others = [name for name in geometry_columns(rows) if name not in cells] if exploratory else []
    if not (held_out := schemes(rows)):
        return _unanswered(outcome, ready, _too_little(ready))
    shrunk = ridge or _too_many(rows, ready.numbers)
    if shrunk and not ridge:
        reasons.append("more covariates than a training set can bear: coefficients are shrunk (ridge)")
    asked = Asked(tuple(ready.cells), tuple(others), tuple(ready.numbers), permutations, seed, kind, shrunk)
    found = gains_table(rows, held_out, asked)
    if not len(found.table):
        return _unanswered(outcome, ready, "no held-out row has stages and tasks that other chains have too")
    how = exchange(rows, permutations, seed, kind)
    told = found.table[found.table["registered"] & (found.table["scheme"] == held_out[0])]
    rivals, without = _rivals(rows, ready, seed, shrunk)
    mixed, undescribed = _mixed(rows, ready) if described else (pd.DataFrame(), [])
    reasons += [*how.reasons, *found.reasons, *without, *undescribed]
    counted = _units(rows, ready.missing)
    return Prediction(
        outcome=outcome,
        units=counted,
        table=found.table,
        rivals=rivals,
        mixed=mixed,
        power=_power(told, counted),
        exchange=_told(how, len(rows)),
        verdict=verdict(outcome, told, rivals, how, counted),
        reasons=tuple(dict.fromkeys(reasons)),
    )


@dataclass(frozen=True)
class _Ready:
    """The rows that have everything M0 needs, what that is, and what was left out."""

    rows: pd.DataFrame
    numbers: list[str]
    cells: list[str]
    missing: dict[str, int]
    reasons: list[str] = field(default_factory=list)


def _ready(table: pd.DataFrame, cells: Sequence[str]) -> _Ready:
    reasons: list[str] = []
    missing: dict[str, int] = {}
    there = {name: int(table[name].notna().sum()) if name in table else 0 for name in (*NUMBERS, *CHEAP, *cells)}
    numbers = [name for name in (*NUMBERS, *CHEAP) if there[name]]
    absent = [name for name in (*CHEAP, "readiness") if name not in table or not table[name].notna().any()]
    if absent:
        reasons.append(f"not measured: {', '.join(absent)}; what geometry adds beyond them is not known")
    unseen = [name for name in cells if not there[name]]
    if unseen:
        reasons.append(f"not measured: {', '.join(unseen)}")
    whole = pd.Series(True, index=table.index)
    for name in ("y", *numbers):
        lacking = table[name].isna()
        missing |= {name: int(lacking.sum())} if lacking.any() else {}
        whole &= ~lacking
    spread = table[whole].groupby("task")["y"].transform("std", ddof=0)
    flat = spread <= 1e-12 * table.loc[spread.index, "y"].abs()
    if flat.any():
        tasks = ", ".join(sorted({str(task) for task in table.loc[flat[flat].index, "task"]}))
        reasons.append(f"the outcome is the same everywhere on {tasks}: left out")
        missing["varying outcome"] = int(flat.sum())
    rows = table.loc[spread.index[~flat]].reset_index(drop=True)
    return _Ready(rows, numbers, [name for name in cells if there[name]], missing, reasons)


def _too_little(ready: _Ready) -> str:
    if len(ready.rows):
        return "needs two chains or more, and there is one; add seeds, orderings or arms"
    return f"no row has all that it takes ({left_out(ready.missing)})"


def _too_many(table: pd.DataFrame, numbers: Sequence[str]) -> bool:
    """Whether the smallest training set has fewer than two rows a coefficient."""
    model = fit(table, numbers)
    return any(model.rows - len(fold.out) < 2 * (fold.basis.shape[1] + 2) for fold in model.folds)


def _units(table: pd.DataFrame, missing: dict[str, int]) -> dict[str, Any]:
    on: dict[Any, list[int]] = {}
    for row, keys in enumerate(table["chains"]):
        for key in keys:
            on.setdefault(key, []).append(row)
    names = {"families": "family", "orderings": "ordering", "arms": "arm", "seeds": "seed"}
    counts = {plural: len({getattr(key, name) for key in on}) for plural, name in names.items()}
    return {
        **counts,
        "chains": len({tuple(rows) for rows in on.values()}),  # unfinished ones may be the same so far
        "sets": int(table["set"].nunique()),
        "nodes": int(table["node"].nunique()),
        "rows": len(table),
        "missing": missing,
    }


def _rivals(rows: pd.DataFrame, ready: _Ready, seed: int, ridge: bool) -> tuple[pd.DataFrame, list[str]]:
    present = [name for name in RIVALS if name in rows and rows[name].notna().any()]
    cells = list(ready.cells)
    if not present:
        return pd.DataFrame(), ["no rival was measured: KL to the base, entropy, size of the update, readiness"]
    names = [*present, *cells]
    shared = rows[rows[names].notna().all(axis=1)].reset_index(drop=True)
    if len(shared) < len(rows) / 2:  # a cell that the first stages lack would cost the others half of the rows
        cells = [name for name in cells if rows[name].notna().all()]
        shared = rows[rows[[*present, *cells]].notna().all(axis=1)].reset_index(drop=True)
    if not len(shared) or not schemes(shared):
        return pd.DataFrame(), ["rivals: no two chains have all of them"]
    model = fit(shared, [name for name in ready.numbers if name in NUMBERS], schemes(shared)[0], ridge=ridge)
    if not model.folds or not model.total():
        return pd.DataFrame(), ["rivals: nothing is left to learn from when a chain is held out"]
    columns = {name: _within_task(shared, name) for name in [*present, *cells]}
    by_kind = [{name: columns[name] for name in part} for part in (present, cells)]
    left_out = (
        [] if len(shared) == len(rows) else [f"rivals are compared on {len(shared)} of {len(rows)} rows, that all have"]
    )
    return rivals_table(model, by_kind[0], by_kind[1], seed), left_out


def _within_task(table: pd.DataFrame, name: str) -> Any:
    by_task = table.groupby("task")[name]
    spread = by_task.transform("std", ddof=0)
    return ((table[name] - by_task.transform("mean")) / spread.where(spread > 0, 1)).to_numpy(np.float64)


def _mixed(rows: pd.DataFrame, ready: _Ready) -> tuple[pd.DataFrame, list[str]]:
    try:
        return mixed_table(rows, ready.cells, ready.numbers), []
    except ImportError:
        return pd.DataFrame(), [MISSING]


def _power(told: pd.DataFrame, counted: dict[str, Any]) -> pd.DataFrame:
    able = {name: detectable(counted[name]) for name in ("chains", "sets")}
    rows = [
        {
            "cell": row["cell"],
            "delta": row["delta"],
            "partial_r": float(np.sqrt(max(row["delta"], 0) / max(1 - row["r2_m0"], 1e-9))),
            "detectable_chains": able["chains"],
            "detectable_sets": able["sets"],
            "chains_needed": units_to_settle(row["delta"], row["r2_m0"]),
        }
        for row in told.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _told(how: Exchange, rows: int) -> dict[str, Any]:
    return {
        "kind": how.kind,
        "arrangements": how.arrangements,
        "permutations": len(how.orders),
        "smallest_p": how.smallest,
        "rows": len(how.rows),
        "of": rows,
        "anti_conservative": not how.honest,
    }


def _unanswered(outcome: str, ready: _Ready, reason: str) -> Prediction:
    empty = pd.DataFrame()
    return Prediction(
        outcome=outcome,
        units=_units(ready.rows, ready.missing),
        table=empty,
        rivals=empty,
        mixed=empty,
        power=empty,
        exchange={},
        verdict=(f"Whether geometry predicts {outcome} cannot be answered: {reason}.",),
        reasons=tuple(ready.reasons),
    )
