"""How much of the spread between chains goes with their order, and how much with seed and arm."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import f, ncf

from limberlm.analysis.arms import POWER

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Anova:
    """Sums of squares of values in seeds x arms x orderings, each factor by itself.

    Attributes:
        ss_ordering: between orderings.
        ss_seed: between seeds.
        ss_arm: between arms; 0 for one.
        ss_residual: what is left, interactions included.
        ss_total: all of it.
        eta_squared: `ss_ordering` / `ss_total`; NaN where nothing differs. Orderings of pure noise have one too, about
            (orderings - 1) / (chains - 1).
        seed_share: `ss_seed` / `ss_total`.
        arm_share: `ss_arm` / `ss_total`.
        noise: standard deviation of an ordering's value in one seed, beside what seed and ordering add to it.
        detectable: how far the two outermost orderings must truly lie apart, the others midway, to be found four times
            in five at 5 % (noncentral F, which the permutation test comes close to); NaN below two seeds.

    """

    ss_ordering: float
    ss_seed: float
    ss_arm: float
    ss_residual: float
    ss_total: float
    eta_squared: float
    seed_share: float
    arm_share: float
    noise: float
    detectable: float


def anova(values: Floats) -> Anova:
    """Sums of squares of values [seeds, arms, orderings].

    >>> found = anova(np.array([[[0.0, 2.0]], [[1.0, 3.0]]]))
    >>> found.ss_ordering, found.ss_seed, found.ss_residual, found.eta_squared
    (4.0, 1.0, 0.0, 0.8)
    """
    seed, arm, ordering = (_between(values, axis) for axis in range(3))
    total = float(((values - values.mean()) ** 2).sum())
    left = max(total - seed - arm - ordering, 0.0)
    noise = _noise(values.mean(axis=1))
    return Anova(
        ss_ordering=ordering,
        ss_seed=seed,
        ss_arm=arm,
        ss_residual=left,
        ss_total=total,
        eta_squared=ordering / total if total else nan,
        seed_share=seed / total if total else nan,
        arm_share=arm / total if total else nan,
        noise=noise,
        detectable=noise * _apart(values.shape[0], values.shape[2]),
    )


def _between(values: Floats, axis: int) -> float:
    others = tuple(other for other in range(3) if other != axis)
    means = values.mean(axis=others)
    return float(((means - values.mean()) ** 2).sum() * values.size / len(means))


def _noise(rows: Floats) -> float:
    """Residual standard deviation of [seeds, orderings]."""
    freedom = (rows.shape[0] - 1) * (rows.shape[1] - 1)
    left = rows - rows.mean(axis=0) - rows.mean(axis=1, keepdims=True) + rows.mean()
    return sqrt(float((left**2).sum()) / freedom) if freedom else nan


def _apart(seeds: int, orderings: int) -> float:
    """The detectable distance in units of the noise."""
    between, within = orderings - 1, (orderings - 1) * (seeds - 1)
    if within < 1:
        return nan
    limit = float(f.ppf(0.95, between, within))
    needed = brentq(lambda parameter: float(ncf.sf(limit, between, within, parameter)) - POWER, 1e-6, 1e5)
    return sqrt(2 * needed / seeds)
