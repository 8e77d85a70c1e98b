"""One row per outcome, with its interval over items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

COLUMNS = ("outcome", "task", "split", "step", "value", "std_error", "low", "high", "n", "items")


def outcome_row(
    outcome: str,
    task: str,
    items: Sequence[float],
    *,
    split: str = "in_domain",
    weights: Sequence[float] | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """The mean of per-item scores with a 95 % interval over items.

    Scores that are all 0 or 1 are proportions and get Wilson's interval, which stays in [0, 1]; others get Student's,
    with the standard error of a ratio of sums where items carry `weights` (tokens per item).
    """
    scores = np.asarray(items, dtype=np.float64)
    n = len(scores)
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    value = float((w * scores).sum() / w.sum())
    residuals = w * (scores - value) / w.mean()
    error = float(np.sqrt((residuals**2).sum() / (n * (n - 1)))) if n > 1 else math.nan
    proportion = weights is None and bool(np.isin(scores, (0.0, 1.0)).all())
    low, high = _wilson(value, n) if proportion else _student(value, error, n)
    return dict(zip(COLUMNS, (outcome, task, split, step, value, error, low, high, n, scores.tolist()), strict=True))


def outcome_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a table with fixed column types."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    return table.astype({"step": "Int64", "n": "int64"})


def _wilson(share: float, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _student(value: float, error: float, n: int) -> tuple[float, float]:
    half = float(student.ppf(0.975, n - 1)) * error if n > 1 else math.nan
    return value - half, value + half
