"""Mixed models, for description alone: how the outcome goes with a cell inside orderings and seeds.

Their p-values take rows for units more than they should and are not given.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.cells import FACTORS

FEWEST_CLUSTERS = 5
SLOPE_CLUSTERS = 8
MISSING = 'statsmodels is not installed: no mixed models; pip install "limberlm[mixed]"'


def mixed_table(table: pd.DataFrame, cells: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """One mixed model per cell: the outcome on covariates and the cell, all in standard deviations of their task.

    A random intercept for orderings (as far as they have got) and one for seeds, each from five clusters up and fixed
    effects below; a random slope of the cell over orderings from eight up, where that fits. Columns: `cell, slope, low,
    high` (normal, which says nothing of the chains' number; NaN where nothing can be fitted), `rows, model, converged`.

    Raises:
        ImportError: statsmodels is not installed.

    """
    return pd.DataFrame([_described(table[table[name].notna()], name, numbers) for name in cells])


def _described(table: pd.DataFrame, name: str, numbers: Sequence[str]) -> dict[str, Any]:
    clusters = {"ordering": table["prefix"].astype(str), "seed": table["seed"].astype(str)}
    random = [each for each, labels in clusters.items() if labels.nunique() >= FEWEST_CLUSTERS]
    fixed = {each: labels for each, labels in clusters.items() if each not in random and labels.nunique() > 1}
    cell = _scaled(table, name)
    dummies = [table[factor].astype(str) for factor in FACTORS if factor in table]
    known = np.column_stack(
        [cell, *(_scaled(table, each) for each in numbers), *map(_dummies, [*dummies, *fixed.values()])]
    )
    try:
        found = _fitted(_scaled(table, "y"), _independent(known), cell, {each: clusters[each] for each in random})
    except np.linalg.LinAlgError:  # more coefficients than so few rows bear
        found = {"slope": np.nan, "low": np.nan, "high": np.nan, "random": random, "converged": False}
    model = ", ".join([f"random {each}" for each in found.pop("random")] + [f"fixed {each}" for each in fixed])
    return {"cell": name, **found, "rows": len(table), "model": model or "least squares"}


def _fitted(y: Any, known: Any, cell: Any, random: dict[str, pd.Series]) -> dict[str, Any]:
    import statsmodels.api as sm
    from statsmodels.regression.mixed_linear_model import VCSpec

    design = np.column_stack([known, np.ones(len(y))])
    names = list(random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at 0 is an answer, told by `converged`
        if not names:
            return _told(sm.OLS(y, design).fit(), []) | {"converged": True}
        if len(names) == 1:
            labels = random[names[0]].to_numpy()
            slope = names == ["ordering"] and len(set(labels)) >= SLOPE_CLUSTERS
            inside = np.column_stack([np.ones(len(y)), cell]) if slope else None
            found = sm.MixedLM(y, design, groups=labels, exog_re=inside).fit()
            return _told(found, [*names, *(["slope"] if slope else [])]) | {"converged": bool(found.converged)}
        parts = {each: [_dummies(random[each], every=True)] for each in names}
        levels = {each: [[str(i) for i in range(part[0].shape[1])]] for each, part in parts.items()}
        spec = VCSpec(names, [levels[each] for each in names], [parts[each] for each in names])
        found = sm.MixedLM(y, design, groups=np.ones(len(y)), exog_vc=spec).fit()
        return _told(found, names) | {"converged": bool(found.converged)}


def _told(found: Any, random: list[str]) -> dict[str, Any]:
    slope, error = float(found.params[0]), float(found.bse[0])
    return {"slope": slope, "low": slope - 1.96 * error, "high": slope + 1.96 * error, "random": random}


def _scaled(table: pd.DataFrame, name: str) -> Any:
    by_task = table.groupby("task")[name]
    spread = by_task.transform("std", ddof=0)
    return ((table[name] - by_task.transform("mean")) / spread.where(spread > 0, 1)).to_numpy(np.float64)


def _dummies(labels: pd.Series, *, every: bool = False) -> Any:
    return pd.get_dummies(labels.to_numpy(), drop_first=not every).to_numpy(np.float64)


def _independent(columns: Any) -> Any:
    """The columns that those before them, and a constant, do not span; the first stays."""
    kept = [0]
    for place in range(1, columns.shape[1]):
        tried = np.column_stack([np.ones(len(columns)), columns[:, [*kept, place]]])
        if np.linalg.matrix_rank(tried) == tried.shape[1]:
            kept.append(place)
    return columns[:, kept]
