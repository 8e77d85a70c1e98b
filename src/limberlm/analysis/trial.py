"""One round of the search for phases: how many stretches a curve holds, and which checkpoint spoils the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from limberlm.analysis.curve import Curve, Floats
from limberlm.analysis.monotone import MonotoneFits, Stretch, fitted, turning_places
from limberlm.analysis.noise import departures, noise
from limberlm.geometry import Estimate, jackknife


@dataclass(frozen=True)
class Rules:
    """The settings of the search.

    Attributes: `min_effect`, the smallest change that counts; `level` of the test for one more stretch; `max_segments`
    and `min_size`, at most so many stretches of at least so many checkpoints; `resamples`; `seed` of their noise.
    """

    min_effect: float = 0.05
    level: float = 0.05
    max_segments: int = 5
    min_size: int = 3
    resamples: int = 199
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.min_effect < 0:
            raise ValueError(f"level {self.level} and min_effect {self.min_effect}: 0 < level < 1, 0 <= min_effect")
        if min(self.max_segments, self.resamples) < 1 or self.min_size < 3:
            raise ValueError("max_segments and resamples start at 1, min_size at 3")

    @property
    def fewest(self) -> int:
        """The fewest checkpoints that three stretches need."""
        return 3 * self.min_size


@dataclass(frozen=True, eq=False)
class Trial:
    """The search on the checkpoints that are still there."""

    curve: Curve
    rules: Rules

    @cached_property
    def most(self) -> int:
        """The most stretches tried."""
        return min(self.rules.max_segments, len(self.curve) // self.rules.min_size)

    @cached_property
    def sigma(self) -> float:
        """The noise of one checkpoint."""
        return float(noise(self.curve.x, self.curve.y))

    @cached_property
    def fits(self) -> MonotoneFits:
        """Fits of every number of stretches."""
        return MonotoneFits(self.curve.y[None], self.most, self.rules.min_size)

    def stretches(self, count: int) -> tuple[Stretch, ...]:
        """The best division into `count`."""
        return self.fits.stretches(count)

    def fit(self, count: int) -> Floats:
        """The fit [n] of `count` stretches."""
        return fitted(self.curve.y, self.stretches(count))

    def resamples(self, count: int) -> Floats:
        """The fit of `count` with fresh noise, the same noise for every count."""
        normal = np.random.default_rng(self.rules.seed).standard_normal((self.rules.resamples, len(self.curve)))
        return np.asarray(self.fit(count) + self.sigma * normal)

    @cached_property
    def p_values(self) -> list[float]:
        """For each number of stretches, how often noise alone makes more of them look as good as they do."""
        return [self._p_value(count) for count in range(self.most + 1)]

    def _p_value(self, count: int) -> float:
        curves = self.resamples(count)
        drawn = MonotoneFits(curves, self.most, self.rules.min_size).cost
        # the noise is read anew in each: with it held fixed one flat curve in five was split, not one in thirty
        null = _gain(drawn, count) / noise(self.curve.x, curves) ** 2
        as_good = int((null >= _gain(self.fits.cost, count)[0] / self.sigma**2 - 1e-9).sum())
        return (1 + as_good) / (1 + self.rules.resamples)

    def settle(self, *, spare: bool) -> tuple[int, int | None, list[str]]:
        """How many stretches there are, the checkpoint to leave out first if one can be spared, and why not more."""
        lowered = list[str]()
        adequate = next(count for count, p in enumerate(self.p_values) if p > self.rules.level)
        for count in range(adequate, 0, -1):
            fault, witness = self.fault(count)
            if fault is None or (witness is not None and spare):
                return count, witness, lowered
            lowered.append(f"{count - 1} instead of {count}: {fault}")
        return 0, None, lowered

    def fault(self, count: int) -> tuple[str | None, int | None]:
        """What is wrong with so many stretches, if anything, and the checkpoint that is to blame for it."""
        smallest = min(abs(change) for change in self.changes(count))
        if smallest < self.rules.min_effect:
            return f"a change of {smallest:.3f} is below {self.rules.min_effect:g}", None
        witness = self.witness(count)
        if witness is not None:
            return f"a change rests on the checkpoint at {self.curve.steps[witness]:,g} alone", witness
        if any(change.low <= 0 <= change.high for change in self.probe(count) or ()):
            return "the interval of a change over probe blocks holds 0", None
        return None, None

    def changes(self, count: int) -> list[float]:
        """What the fit changes by over each stretch."""
        fit = self.fit(count)
        return [float(change) for change in np.diff(fit[turning_places(fit, self.stretches(count))])]

    def witness(self, count: int) -> int | None:
        """The checkpoint that a stretch rests on; of several the one farthest from its neighbours' line."""
        n, whole = len(self.curve), np.abs(self.changes(count))
        shorter = np.array([np.delete(self.curve.y, left_out) for left_out in range(n)])
        refits = MonotoneFits(shorter, count, min_size=2)
        pattern = [stretch.rises for stretch in self.stretches(count)]
        found = []
        for left_out, y in enumerate(shorter):
            stretches = refits.stretches(count, left_out)
            fit = fitted(y, stretches)
            changes = np.abs(np.diff(fit[turning_places(fit, stretches)]))
            share = 0.25 if left_out in (0, n - 1) else 0.5  # a steep end is mostly its last checkpoint's doing
            least = np.maximum(self.rules.min_effect, share * whole)
            if [stretch.rises for stretch in stretches] != pattern or (changes < least).any():
                found.append(left_out)
        inner = np.abs(departures(self.curve.x, self.curve.y))
        distance = np.concatenate([inner[:1], inner, inner[-1:]])  # three points have one distance, ends included
        return max(found, key=lambda place: float(distance[place]), default=None)

    def probe(self, count: int) -> list[Estimate] | None:
        """The interval of each change over probe blocks, stretches and turning points held as they are."""
        plug_in, blocks = self.curve.plug_in, self.curve.blocks
        if plug_in is None or blocks is None:
            return None
        stretches = self.stretches(count)
        places = turning_places(self.fit(count), stretches)
        whole, *without = [np.diff(fitted(curve, stretches)[places]) for curve in (plug_in, *blocks)]
        columns = np.array(without).T
        return [jackknife(float(change), column.tolist()) for change, column in zip(whole, columns, strict=True)]


def _gain(cost: Floats, count: int) -> Floats:
    """What more stretches than `count` take off the squared error, at best; `cost` [most + 1, curves].

    The best of all that are more, not of `most` alone: many short stretches can fit worse than few long ones.
    """
    return np.asarray(cost[count] - cost[count:].min(axis=0))
