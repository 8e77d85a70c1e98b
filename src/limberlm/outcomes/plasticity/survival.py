"""Times that are partly only known to be longer than a cap: their mean, their survival curve, two arms compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.plasticity.curve import Floats

MOST_ARRANGEMENTS = 20_000


@dataclass(frozen=True, eq=False)
class Survival:
    """Kaplan and Meier's curve: the share of runs still without an event, at each time of an event.

    Attributes: `times` [m], ascending; `at_risk` and `events` [m], runs; `survival` [m]; `std_error` [m], Greenwood's,
    NaN where survival has come to 0.
    """

    times: Floats
    at_risk: NDArray[np.int64]
    events: NDArray[np.int64]
    survival: Floats
    std_error: Floats


@dataclass(frozen=True)
class LogRank:
    """The log-rank test of two arms: statistic, its p-value by the chi-square, and by all ways to deal out the runs.

    `p_exact` is None where there are more than 20,000 ways. With few runs believe it and not `p_value`: at three
    against three, complete separation is 0.02 by the chi-square, where one in ten ways is as extreme.
    """

    chi2: float
    p_value: float
    p_exact: float | None


def restricted_mean(times: Sequence[float], censored: Sequence[bool], cap: float) -> float:
    """E min(T, cap), in the unit of the times: the plain mean of min(T, cap), unbiased if all share the cap.

    Raises:
        ValueError: nothing is given, or a run was censored before the cap: then the plain mean would be too low.

    >>> round(restricted_mean([10, 20, 50], [False, False, True], cap=50), 2)
    26.67
    """
    t, c = _checked(times, censored)
    if bool((t[c] < cap).any()):
        raise ValueError(f"censored before the cap of {cap}: the runs must share one cap; use kaplan_meier")
    return float(np.minimum(t, cap).mean())


def censored_share(censored: Sequence[bool]) -> float:
    """Share of runs without an event; report it beside every summary of the times.

    >>> censored_share([False, False, True, True])
    0.5
    """
    return float(np.mean(np.asarray(censored, dtype=bool)))


def kaplan_meier(times: Sequence[float], censored: Sequence[bool]) -> Survival:
    """S(t) = prod over event times u <= t of (1 - events/at risk), right-censored, ties allowed.

    A run censored at the time of an event was still at risk. Source: Kaplan and Meier 1958; Greenwood 1926.

    >>> kaplan_meier([10, 20, 50], [False, False, True]).survival.round(3).tolist()
    [0.667, 0.333]
    """
    t, c = _checked(times, censored)
    moments = np.unique(t[~c])
    at_risk = (t[None] >= moments[:, None]).sum(1)
    events = ((t[None] == moments[:, None]) & ~c).sum(1)
    survival = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = survival * np.sqrt(np.cumsum(events / (at_risk * (at_risk - events))))
    return Survival(moments, at_risk, events, survival, error)


def log_rank(
    times: Sequence[float], censored: Sequence[bool], other_times: Sequence[float], other_censored: Sequence[bool]
) -> LogRank:
    """Do two arms differ in how soon their events come? (O - E)^2 / Var of one arm's events, hypergeometric variance.

    Source: Mantel 1966. The exact p-value is the share of all ways to deal the runs out to arms of these sizes whose
    |O - E| is no smaller; it takes runs as exchangeable, pairs of them (by seed) not into account.

    Raises:
        Undefined: no event, or all at one time and no run outlives it: then every order of the runs is the same.
        ValueError: an arm without runs.

    >>> log_rank([10, 20, 30], [False] * 3, [40, 50, 60], [False] * 3).p_exact
    0.1
    """
    (a, ca), (b, cb) = _checked(times, censored), _checked(other_times, other_censored)
    t, c = np.concatenate([a, b]), np.concatenate([ca, cb])
    scores = _scores(t, c)
    difference, variance = float(scores[: len(a)].sum()), _variance(t, c, len(a))
    if variance <= 0:
        raise Undefined("no event that could have come sooner in one arm than in the other")
    statistic = difference**2 / variance
    return LogRank(statistic, float(chi2.sf(statistic, 1)), _exact(scores, len(a)))


def _scores(t: Floats, c: NDArray[np.bool_]) -> Floats:
    """What each run adds to O - E of its arm: 1 for an event, minus the hazard it lived through; they sum to 0."""
    curve = kaplan_meier(t.tolist(), c.tolist())
    hazard = np.concatenate([[0.0], np.cumsum(curve.events / curve.at_risk)])
    scores: Floats = (~c).astype(np.float64) - hazard[np.searchsorted(curve.times, t, side="right")]
    return scores


def _variance(t: Floats, c: NDArray[np.bool_], first: int) -> float:
    curve = kaplan_meier(t.tolist(), c.tolist())
    n, d = curve.at_risk.astype(np.float64), curve.events
    own = (t[None, :first] >= curve.times[:, None]).sum(1) / n
    return float((d * own * (1 - own) * (n - d) / np.maximum(n - 1, 1)).sum())


def _exact(scores: Floats, first: int) -> float | None:
    if comb(len(scores), first) > MOST_ARRANGEMENTS:
        return None
    dealt = np.array(list(combinations(range(len(scores)), first)))
    sums = np.abs(scores[dealt].sum(1))
    return float((sums >= abs(scores[:first].sum()) - 1e-9).mean())


def _checked(times: ArrayLike, censored: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    t, c = np.asarray(times, dtype=np.float64), np.asarray(censored, dtype=bool)
    if t.ndim != 1 or t.shape != c.shape or not len(t) or not np.isfinite(t).all():
        raise ValueError(f"times {t.shape} and censored {c.shape}: give one finite time and one flag for each run")
    return t, c
