"""Whether orderings differ at all: their labels, exchanged within every seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ENUMERATED = 1_000_000
"""More arrangements than this are drawn, not counted through."""
DRAWS = 9_999
_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Permuted:
    """What the exchange of labels says.

    Attributes:
        p: the share of arrangements whose orderings lie at least as far apart; in draws (1 + those) / (1 + draws).
        smallest: the smallest p that so many orderings and seeds, and draws, can reach.
        arrangements: how many were looked at.
        exact: whether those are all.

    """

    p: float
    smallest: float
    arrangements: int
    exact: bool


def smallest_p(orderings: int, seeds: int) -> float:
    """1 / (n!)^(seeds - 1): one arrangement of all, where exchanging alike in every seed changes nothing.

    >>> [round(smallest_p(*study), 4) for study in ((3, 2), (3, 3), (6, 2))]
    [0.1667, 0.0278, 0.0014]
    """
    exponent = max(seeds - 1, 0)
    return float(np.exp(-exponent * np.log(np.arange(1, orderings + 1)).sum()))


def permuted(values: Floats, *, draws: int = DRAWS, seed: int = 0) -> Permuted:
    """Permute the orderings of every seed, values [seeds, orderings], and compare sums of squares between orderings.

    All arrangements where they are few, else at least 9,999 draws. Exact at any number of seeds if the order makes no
    difference, whatever seeds have in common within themselves. Source: Fisher 1935 for blocks; our choice of limits.

    >>> permuted(np.array([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0], [1.0, 2.0, 3.0]]))
    Permuted(p=0.0277..., smallest=0.0277..., arrangements=36, exact=True)
    """
    rows = values - values.mean(axis=1, keepdims=True)
    seeds, orderings = rows.shape
    observed = float((rows.sum(axis=0) ** 2).sum())
    limit = observed - 1e-9 * max(observed, float((rows**2).sum()))
    reach = smallest_p(orderings, seeds)
    if seeds == 1 or factorial(orderings) ** (seeds - 1) <= ENUMERATED:
        squares = _enumerated(rows)
        return Permuted(float((squares >= limit).mean()), reach, len(squares), exact=True)
    as_far = _drawn(rows, limit, draws, np.random.default_rng(seed))
    return Permuted((1 + as_far) / (1 + draws), max(reach, 1 / (1 + draws)), draws, exact=False)


def _enumerated(rows: Floats) -> Floats:
    """Sums of squares of all arrangements, the first seed's labels held."""
    sums = rows[:1]
    if len(rows) > 1:
        order = np.array(list(permutations(range(rows.shape[1]))))
        for row in rows[1:]:
            sums = (sums[:, None] + row[order]).reshape(-1, rows.shape[1])
    return np.asarray((sums**2).sum(axis=1))


def _drawn(rows: Floats, limit: float, draws: int, rng: np.random.Generator) -> int:
    as_far, most = 0, max(1, _AT_ONCE // rows.size)
    for start in range(0, draws, most):
        count = min(most, draws - start)
        shuffled = rng.permuted(np.broadcast_to(rows, (count, *rows.shape)), axis=2)
        as_far += int(((shuffled.sum(axis=1) ** 2).sum(axis=1) >= limit).sum())
    return as_far
