"""Spearman's correlation, and what is left of it once other variables are held fixed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.memorization.matches import Floats

_FLAT = 1e-9  # share of a variable's spread below which nothing of it is left


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Correlation of the average ranks of `x` and `y` [n]; in [-1, 1], unchanged by monotone transforms.

    Raises:
        Undefined: fewer than 3 values, a value that is not a number, or one of the two is constant.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    0.8
    """
    return partial_spearman(x, y, ())


def partial_spearman(x: ArrayLike, y: ArrayLike, given: tuple[ArrayLike, ...]) -> float:
    """Correlation of what is left of the average ranks of `x` and `y` [n] after those of each of `given` [n].

    The ranks of the given variables, with a constant, are regressed out by least squares; a constant one changes
    nothing. Source: the usual partial correlation, on ranks.

    Raises:
        Undefined: too few values, a value that is not a number, or nothing is left of one of the two.

    >>> round(partial_spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], ([1, 1, 2, 2, 3],)), 6)
    -1.0
    """
    values = np.asarray([x, y, *given], dtype=np.float64)
    if values.shape[1] < 3 + len(given):
        raise Undefined(f"{values.shape[1]} examples: too few")
    if not np.isfinite(values).all():
        raise Undefined("a log-probability is not a finite number")
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    left = _without(ranks[:2], ranks[2:])
    spread, total = (left**2).sum(axis=1), (ranks[:2] ** 2).sum(axis=1)
    for name, own, whole in zip(("the model's", "the corpus's"), spread, total, strict=True):
        if whole == 0:
            raise Undefined(f"{name} log-probability is the same for every example")
        if own <= _FLAT * whole:
            raise Undefined(f"{name} log-probability is determined by what is held fixed")
    return float(np.clip(left[0] @ left[1] / np.sqrt(spread[0] * spread[1]), -1, 1))


def _without(values: Floats, given: Floats) -> Floats:
    """Residuals of each row of `values` on the rows of `given`, all centred."""
    if not len(given):
        return values
    slopes = np.linalg.lstsq(given.T, values.T, rcond=None)[0]
    residuals: Floats = values - slopes.T @ given
    return residuals
