"""One row per outcome with its interval over items; items for what is no mean over items; two rows item by item."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from limberlm.errors import UserError

Z = 1.959963984540054  # the normal's 97.5 % point
Row = dict[str, Any]
Kind = Literal["mean", "share", "paired"]
COLUMNS = ("outcome", "task", "split", "step", "value", "std_error", "low", "high", "n", "items", "settings")


def outcome_row(
    outcome: str,
    task: str,
    items: Sequence[float],
    *,
    kind: Kind = "mean",
    split: str = "in_domain",
    weights: Sequence[float] | None = None,
    step: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Row:
    """The mean of per-item scores with a 95 % interval over items.

    `kind` says what the scores are. `share`: right or wrong, with Wilson's interval. `paired`: the difference of two
    such on the same item, with the adjusted interval of Bonett and Price (2012), which does not vanish when every
    difference is zero. `mean`: any numbers, with Student's interval, and the standard error of a ratio of sums where
    items carry `weights` (tokens per item). `settings` are what the number depends on besides the model, kept in the
    row as JSON: two values whose settings differ are not to be compared.
    """
    scores = np.asarray(items, dtype=np.float64)
    n = len(scores)
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    value = float((w * scores).sum() / w.sum())
    residuals = w * (scores - value) / w.mean()
    error = float(np.sqrt((residuals**2).sum() / (n * (n - 1)))) if n > 1 else math.nan
    if kind == "share":
        low, high = wilson(value, n)
    elif kind == "paired":
        low, high = _bonett_price(scores)
    else:
        low, high = _student(value, error, n)
    said = None if settings is None else json.dumps(dict(settings), sort_keys=True)
    values = (outcome, task, split, step, value, error, low, high, n, scores.tolist(), said)
    return dict(zip(COLUMNS, values, strict=True))


def outcome_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as a table with fixed column types."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({"step": "Int64", "n": "int64", "settings": "string"})


def jackknife_items(value: float, without: Sequence[float]) -> list[float]:
    """One item for each of G parts, with mean `value` and the spread that is the value's jackknife error.

    item_g = value + (G - 1) (mean_h without_h - without_g), where `without` holds the value with part g left out: the
    pseudo-values of Quenouille and Tukey, moved so that their mean is the value itself. An outcome row of them has the
    standard error sqrt((G - 1)/G sum_g (without_g - mean)^2), and the differences of two checkpoints' items on the same
    parts are those of the difference, so that comparisons stay paired. Of a mean they are the scores themselves.

    Raises:
        ValueError: fewer than two parts.

    >>> jackknife_items(2.0, [2.5, 2.0, 1.5])
    [1.0, 2.0, 3.0]
    """
    parts = len(without)
    if parts < 2:
        raise ValueError(f"needs two parts to leave out, there {'is' if parts == 1 else 'are'} {parts}")
    centre = sum(without) / parts
    return [value + (parts - 1) * (centre - one) for one in without]


def item_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> NDArray[np.float64]:
    """What two checkpoints' rows of one outcome differ by on each item, the later's minus the earlier's.

    Raises:
        UserError: the two were not measured with the same settings on as many items.

    """
    pair = (before, after)
    said = [row["settings"] if isinstance(row["settings"], str) else None for row in pair]  # NA in a row of a table
    one, other = (np.asarray(row["items"], dtype=np.float64) for row in pair)
    if said[0] != said[1] or len(one) != len(other):
        ways = (f"{how or 'no settings'} on {len(items)} items" for how, items in zip(said, (one, other), strict=True))
        name, both = f"{after['outcome']} on {after['task']}", " and with ".join(ways)
        raise UserError(f"{name}: measured with {both}; measure alike")
    return other - one


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n.

    >>> [round(end, 3) for end in wilson(0.5, 10)]
    [0.237, 0.763]
    """
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding may cross the share


def _bonett_price(differences: np.ndarray) -> tuple[float, float]:
    n = len(differences)
    gained, lost = (float((differences == sign).sum() + 1) / (n + 2) for sign in (1, -1))
    centre = gained - lost
    half = Z * math.sqrt((gained + lost - centre**2) / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


@cache
def _quantile(freedom: int) -> float:
    return float(student.ppf(0.975, freedom))


def _student(value: float, error: float, n: int) -> tuple[float, float]:
    half = _quantile(n - 1) * error if n > 1 else math.nan
    return value - half, value + half
