"""What each cell of geometry adds to the covariates, in chains, orderings and families that the fit has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.models import Floats, Model, fit, leftovers
from limberlm.analysis.prediction.permutation import Exchange, Kind, exchange, exchanged, p_value
from limberlm.analysis.prediction.rivals import FEWEST, interval
from limberlm.analysis.prediction.splits import Scheme, groups
from limberlm.geometry.uncertainty import holm

ALL_CELLS = "all registered"
TESTED: tuple[Scheme, ...] = ("chain", "ordering")
FEWEST_FAMILIES = 4


@dataclass(frozen=True)
class Asked:
    """What is computed: registered and other cells, numeric covariates, and how.

    Attributes: `cells`, `others`, `numbers`, columns of the table; `permutations`, `seed`, `kind` as of `exchange`;
    `ridge` as of `fit`.
    """

    cells: tuple[str, ...]
    others: tuple[str, ...]
    numbers: tuple[str, ...]
    permutations: int = 999
    seed: int = 0
    kind: Kind | None = None
    ridge: bool = False


@dataclass(frozen=True)
class Gains:
    """The table, and what in it could not be computed."""

    table: pd.DataFrame
    reasons: tuple[str, ...]


def gains_table(table: pd.DataFrame, held_out: Sequence[Scheme], asked: Asked) -> Gains:
    """Every cell under every scheme.

    Columns: `cell, registered, scheme, rows, groups` (held out one by one), `tested` (rows that could be), `r2_m0, r2`
    (of M0 and of M1, out of chain), `delta`, `low, high` (95 %), `p` (trajectories exchanged; schemes chain and ordering)
    and `p_adjusted`: Holm's over the registered cells of a scheme, the largest of the exchanges' maxima (max-T) over the
    others. "all registered" adds them at once, where they are several. A cell is looked at on the rows that have it.
    """
    rows: list[dict[str, Any]] = []
    drawn: dict[str, Floats] = {}
    reasons: list[str] = []
    for columns, own in _patterns(table, asked):
        how = exchange(own, asked.permutations, asked.seed, asked.kind)
        for scheme in held_out:
            names = [name for name in columns if scheme == "chain" or name not in asked.others]
            found, null, why = _of_scheme(own, names, scheme, how, asked)
            rows += found
            reasons += why
            drawn |= {name: draws for name, draws in null.items() if name in asked.others}
    result = pd.DataFrame(rows)
    return Gains(_adjusted(result, drawn, asked) if len(result) else result, tuple(dict.fromkeys(reasons)))


def _patterns(table: pd.DataFrame, asked: Asked) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """Cells that are missing in the same rows, and the rows that have them; all registered cells at once last."""
    alike: dict[bytes, list[str]] = {}
    for name in (*asked.cells, *asked.others):
        alike.setdefault(table[name].notna().to_numpy().tobytes(), []).append(name)
    for names in alike.values():
        yield names, table[table[names[0]].notna()].reset_index(drop=True)
    if len(asked.cells) > 1:
        yield [ALL_CELLS], table[table[list(asked.cells)].notna().all(axis=1)].reset_index(drop=True)


def _of_scheme(
    own: pd.DataFrame, names: Sequence[str], scheme: Scheme, how: Exchange, asked: Asked
) -> tuple[list[dict[str, Any]], dict[str, Floats], list[str]]:
    count = len(groups(own, scheme)) if len(own) else 0
    model = fit(own, asked.numbers, scheme, ridge=asked.ridge) if count > 1 else None
    if model is None or not model.folds or not model.total():
        return [], {}, [f"{names[0]}: no {scheme} can be held out of the rows that have it"] if names else []
    whole = len(how.rows) == len(own)
    part = model if whole else fit(own.iloc[how.rows].reset_index(drop=True), asked.numbers, scheme, ridge=asked.ridge)
    rows, null = [], {}
    for name in names:
        columns = own[list(asked.cells) if name == ALL_CELLS else [name]].to_numpy(np.float64)
        row = {"cell": name, "registered": name in asked.cells, "scheme": scheme, "groups": count}
        row |= _gain(model, columns, scheme, count, asked.seed)
        if scheme in TESTED and how.arrangements > 1:
            null[name] = _null(part, own.iloc[how.rows].reset_index(drop=True), columns[how.rows], how, asked)
            row["p"] = p_value(float(part.gain(columns[how.rows][:, None, :])[0]), null[name])
        rows.append({**row, "p": row.get("p", np.nan)})
    few = model.by_set().size < FEWEST
    return rows, null, [f"fewer than {FEWEST} sets of chains that share no checkpoint: no interval"] if few else []


def _gain(model: Model, columns: Floats, scheme: Scheme, count: int, seed: int) -> dict[str, Any]:
    base, with_cell, total = model.by_set(), model.by_set(columns), model.totals_by_set()
    low, high = interval(base - with_cell, total, seed)
    if scheme in ("family", "arm") and count < FEWEST_FAMILIES:
        low = high = float("nan")
    r2_m0, r2 = (1 - float(part.sum() / total.sum()) for part in (base, with_cell))
    counted = {"rows": model.rows, "tested": model.tested}
    return counted | {"r2_m0": r2_m0, "r2": r2, "delta": r2 - r2_m0, "low": low, "high": high}


def _null(model: Model, rows: pd.DataFrame, columns: Floats, how: Exchange, asked: Asked) -> Floats:
    """Delta R^2 [B] under every exchange.

    What is exchanged is what the covariates leave of the columns. The observed gain is the same with it, since what they
    do not leave is in M0 already; exchanged, it carries no trace of the stage it came from (Dekker et al. 2007).
    """
    left = leftovers(rows, asked.numbers, columns)
    return np.concatenate([model.gain(part) for part in exchanged(left, how.orders)])


def _adjusted(table: pd.DataFrame, drawn: dict[str, Floats], asked: Asked) -> pd.DataFrame:
    table["p_adjusted"] = np.nan
    for _, places in table[table["registered"]].groupby("scheme").groups.items():
        table.loc[places, "p_adjusted"] = holm(table.loc[places, "p"].to_numpy(np.float64))
    lengths = {len(draws) for draws in drawn.values()}
    largest = {n: np.max([draws for draws in drawn.values() if len(draws) == n], axis=0) for n in lengths}
    for place, row in table[table["cell"].isin(asked.others) & table["p"].notna()].iterrows():
        table.loc[place, "p_adjusted"] = p_value(row["delta"], largest[len(drawn[row["cell"]])])
    return table
