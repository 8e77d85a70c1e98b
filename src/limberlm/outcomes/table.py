"""One row per outcome, with its interval over items."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

Z = 1.959963984540054  # the normal's 97.5 % point
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
) -> dict[str, Any]:
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
        low, high = _wilson(value, n)
    elif kind == "paired":
        low, high = _bonett_price(scores)
    else:
        low, high = _student(value, error, n)
    said = None if settings is None else json.dumps(dict(settings), sort_keys=True)
    values = (outcome, task, split, step, value, error, low, high, n, scores.tolist(), said)
    return dict(zip(COLUMNS, values, strict=True))


def outcome_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table with fixed column types."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({"step": "Int64", "n": "int64", "settings": "string"})


def _wilson(share: float, n: int) -> tuple[float, float]:
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding may cross the share


def _bonett_price(differences: np.ndarray) -> tuple[float, float]:
    n = len(differences)
    gained, lost = (float((differences == sign).sum() + 1) / (n + 2) for sign in (1, -1))
    centre = gained - lost
    half = Z * math.sqrt((gained + lost - centre**2) / (n + 2))
    return max(-1.0, centre - half), min(1.0, centre + half)


def _student(value: float, error: float, n: int) -> tuple[float, float]:
    half = float(student.ppf(0.975, n - 1)) * error if n > 1 else math.nan
    return value - half, value + half
