"""The best of several learning rates, without rewarding luck: chosen on half of the items, reported on the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Best(NamedTuple):
    """Which of the rates is best, and the places of the items [m] that had no say in it."""

    rate: int
    reported: NDArray[np.int64]


def best_rate(losses: ArrayLike, weights: ArrayLike) -> Best:
    """The rate whose final loss is lowest on every other item, starting with the first.

    Args:
        losses: final loss of each item at each rate [rates, items].
        weights: what each item counts [items].

    The lowest of 3 or 5 arms that are all equal lies 0.85 or 1.16 standard deviations below them; on items that had
    no say in the choice it does not. The halves, and the final loss as what is compared, are our choice.

    Raises:
        ValueError: fewer than two items.

    >>> best_rate([[2.0, 9.0, 2.0], [1.0, 7.0, 1.5]], [1, 1, 1])
    Best(rate=1, reported=array([1]))

    """
    values, w = np.asarray(losses, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if values.shape[1] < 2:
        raise ValueError("one item cannot both choose the rate and report it")
    means = values[:, ::2] @ w[::2] / w[::2].sum()
    # a rate at which training blew up is never the best
    return Best(
        int(np.argmin(np.where(np.isnan(means), np.inf, means))), np.arange(1, values.shape[1], 2, dtype=np.int64)
    )
