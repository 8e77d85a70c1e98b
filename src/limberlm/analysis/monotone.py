"""Least-squares fits of a curve by stretches that rise and fall in turn, for many curves at once.

No shape is assumed inside a stretch but that it is monotone. The isotonic cost of every stretch of every curve comes
from one run of pool-adjacent-violators per starting point; the best division into stretches from dynamic programming
over (number of stretches, direction, end).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Stretch:
    """Points `start`..`end` of a curve, inclusive, fitted by a curve that rises, or else falls."""

    start: int
    end: int
    rises: bool

    @property
    def points(self) -> slice:
        """The points of the stretch."""
        return slice(self.start, self.end + 1)


def stretch_costs(curves: Floats) -> Floats:
    """Squared error of the best monotone fit to every stretch of every curve.

    `curves` [curves, n]. Returns [n, n, 2, curves]: entry (i, j, 0) is the cost of the best fit to points i..j that
    never rises, (i, j, 1) of the best that never falls; infinite where j < i.

    Incremental pool-adjacent-violators (Ayer et al. 1955): all starting points and curves take the next point
    together, each pooling until it is monotone again, so that all O(n^2) stretches cost one sweep.

    >>> stretch_costs(np.array([[0.0, 2.0, 1.0]]))[0, 2].tolist()
    [[2.0], [0.5]]
    """
    count, n = curves.shape
    lanes = 2 * count  # a falling fit is a rising one of the negative
    signed = np.concatenate([-curves, curves])
    pools = _Pools(n, lanes)
    costs = np.full((n, n, lanes), np.inf)
    for end in range(n):
        pools.push(signed[:, end])
        costs[: end + 1, end] = pools.cost[: (end + 1) * lanes].reshape(end + 1, lanes)
    return costs.reshape(n, n, 2, count)


class _Pools:
    """The pools of pool-adjacent-violators, one stack of them for every (starting point, lane).

    Stacks are numbered start by start, so that those that have begun are the first ones. The top pool of each is in
    `mean` and `weight`, those below it in `below_mean` and `below_weight`, `depth` of them.
    """

    def __init__(self, n: int, lanes: int) -> None:
        stacks = n * lanes
        self.lanes, self.begun = lanes, 0
        self.cost, self.mean, self.weight = np.zeros(stacks), np.empty(stacks), np.ones(stacks)
        self.below_mean, self.below_weight = np.empty(stacks * n), np.empty(stacks * n)
        self.depth: Places = np.zeros(stacks, np.intp)
        self.floor: Places = np.arange(stacks) * n

    def push(self, values: Floats) -> None:
        """One more point for every stack that has begun, and for those that begin with it."""
        old, lanes = self.begun, self.lanes
        higher = (self.mean[:old].reshape(-1, lanes) >= values).ravel()
        above, going = np.flatnonzero(~higher), np.flatnonzero(higher)
        at = self.floor[above] + self.depth[above]
        self.below_mean[at], self.below_weight[at] = self.mean[above], self.weight[above]
        self.depth[above] += 1
        self.mean[above], self.weight[above] = values[above % lanes], 1
        self._merge(going, values[going % lanes], np.ones(len(going)))
        self.mean[old : old + lanes], self.begun = values, old + lanes
        going = going[self.depth[going] > 0]
        while going.size:
            at = self.floor[going] + self.depth[going] - 1
            higher = self.below_mean[at] >= self.mean[going]
            going, at = going[higher], at[higher]
            self._merge(going, self.below_mean[at], self.below_weight[at])
            self.depth[going] -= 1
            going = going[self.depth[going] > 0]

    def _merge(self, stacks: Places, mean: Floats, weight: Floats) -> None:
        """Take a pool into the top one."""
        own, gap = self.weight[stacks], mean - self.mean[stacks]
        both = own + weight
        self.cost[stacks] += own * weight / both * gap**2
        self.mean[stacks] += gap * weight / both
        self.weight[stacks] = both


class MonotoneFits:
    """Best fits of 0 to `most` stretches, alternating in direction, of `min_size` points or more each.

    `curves` [curves, n]. `cost` [most + 1, curves] is the squared error, infinite where n points do not hold so many
    stretches; with none the fit is constant.

    >>> fits = MonotoneFits(np.array([[0.0, 1.0, 2.0, 1.0, 0.0]]), 2, min_size=2)
    >>> fits.cost[:, 0].round(6).tolist()
    [2.8, 2.0, 0.0]
    >>> [stretch.rises for stretch in fits.stretches(2)]
    [True, False]
    """

    def __init__(self, curves: Floats, most: int, min_size: int) -> None:
        n = curves.shape[1]
        allowed = stretch_costs(curves)
        for start in range(n):
            allowed[start, : start + min_size - 1] = np.inf
        self._allowed = allowed
        # [k - 1][rises] is [n, curves]: the least cost of k stretches on points 0..j, the last of that direction
        self._tables: list[tuple[Floats, Floats]] = [(allowed[0, :, 0], allowed[0, :, 1])]
        for _ in range(1, most):
            falls, rises = self._tables[-1]
            self._tables.append((_extended(rises, allowed[:, :, 0]), _extended(falls, allowed[:, :, 1])))
        constant = np.square(curves - curves.mean(axis=1, keepdims=True)).sum(axis=1)
        self.cost = np.array([constant, *(np.minimum(falls[-1], rises[-1]) for falls, rises in self._tables)])

    def stretches(self, count: int, curve: int = 0, *, first_rises: bool | None = None) -> tuple[Stretch, ...]:
        """The stretches of the best fit of `count`, of either direction first unless that is given."""
        if count == 0:
            return ()
        if first_rises is None:
            falls_table, rises_table = self._tables[count - 1]
            rises = bool(rises_table[-1, curve] <= falls_table[-1, curve])
        else:
            rises = first_rises == (count % 2 == 1)
        found, end = [], len(self._allowed) - 1
        for before in range(count - 1, 0, -1):
            totals = (
                self._tables[before - 1][1 - rises][:end, curve] + self._allowed[1 : end + 1, end, int(rises), curve]
            )
            start = int(totals.argmin()) + 1
            found.append(Stretch(start, end, rises))
            end, rises = start - 1, not rises
        return (Stretch(0, end, rises), *reversed(found))


def _extended(before: Floats, costs: Floats) -> Floats:
    """The least costs [n, curves] with one more stretch, at `costs` [n, n, curves], behind `before` [n, curves]."""
    best = np.full_like(before, np.inf)
    for end in range(1, len(before)):
        best[end] = (before[:end] + costs[1 : end + 1, end]).min(axis=0)
    return best


def fitted(curve: Floats, stretches: Sequence[Stretch]) -> Floats:
    """The fit [n] of `stretches` to a curve [n]; its mean where there are none."""
    if not stretches:
        return np.full_like(curve, curve.mean())
    parts: list[Any] = [isotonic_regression(curve[part.points], increasing=part.rises).x for part in stretches]
    return np.concatenate(parts)


def turning_places(fit: Floats, stretches: Sequence[Stretch]) -> list[int]:
    """Where stretches end: the first point, at each boundary the more extreme of its two points, the last point."""
    inner = []
    for before, after in pairwise(stretches):
        farther = fit[before.end] - fit[after.start] if before.rises else fit[after.start] - fit[before.end]
        inner.append(before.end if farther >= 0 else after.start)
    return [0, *inner, len(fit) - 1]
