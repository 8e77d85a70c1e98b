"""Two ways to a partial rank correlation that use no regression."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def recursive(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """First-order partial correlation by its textbook formula."""
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    return (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))


def by_precision(columns: np.ndarray) -> float:
    """The same, of any order, from the inverse of the correlation matrix."""
    inverse = np.linalg.inv(np.corrcoef([stats.rankdata(column) for column in columns]))
    return -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
