"""A number along a series of checkpoints, with its delete-one-block values, checked and ready for analysis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limberlm.errors import UserError
from limberlm.geometry import Estimate, jackknife
from limberlm.geometry.uncertainty import MIN_BLOCKS

Floats = NDArray[np.float64]

MOST = 64
"""Longer series are averaged down to this many points or fewer."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A series of n checkpoints.

    Attributes: `steps` [n]; `x` [n], the axis ln(step + smallest positive step); `y` [n], the values; `plug_in` [n],
    the same before any correction of bias, and `blocks` [G, n], the values without each block, or None for both.
    """

    steps: Floats
    x: Floats
    y: Floats
    plug_in: Floats | None = None
    blocks: Floats | None = None

    def __len__(self) -> int:
        return len(self.y)

    def at(self, places: NDArray[np.intp]) -> Curve:
        """The checkpoints at these places only."""
        plug_in, blocks = (None if part is None else part[..., places] for part in (self.plug_in, self.blocks))
        return Curve(self.steps[places], self.x[places], self.y[places], plug_in, blocks)

    def change(self, start: int, end: int) -> Estimate | None:
        """The value at `end` minus that at `start`, paired over the blocks; None without blocks."""
        if self.plug_in is None or self.blocks is None:
            return None
        without = self.blocks[:, end] - self.blocks[:, start]
        return jackknife(self.plug_in[end] - self.plug_in[start], without.tolist())

    def shortened(self, most: int = MOST) -> Curve:
        """Neighbours averaged in `most` equal bins of x, where there are more checkpoints than that.

        Each bin goes by the step of the checkpoint nearest to its mean x.
        """
        if len(self) <= most:
            return self
        edges = np.linspace(self.x[0], self.x[-1], most + 1)[1:-1]
        _, member, sizes = np.unique(np.searchsorted(edges, self.x, "right"), return_inverse=True, return_counts=True)
        mean = (member == np.arange(len(sizes))[:, None]) / sizes[:, None]
        x = mean @ self.x
        steps = self.steps[np.abs(x[:, None] - self.x).argmin(axis=1)]
        plug_in, blocks = (None if part is None else part @ mean.T for part in (self.plug_in, self.blocks))
        return Curve(steps, x, mean @ self.y, plug_in, blocks)


def make_curve(
    steps: ArrayLike,
    values: ArrayLike,
    blocks: ArrayLike | None = None,
    *,
    name: str = "values",
    corrected: bool = True,
) -> Curve:
    """A checked curve.

    `steps` [n] rise from 0 or more; `values` [n]; `blocks` [G, n], delete-one-block values, whose rows of empty blocks
    are NaN throughout. With `corrected`, `values` are the jackknife's bias-corrected ones, and the plug-in values are
    found from them and the blocks: (J + (G - 1) mean_b) / G. Else they are the plug-in values themselves.

    Raises:
        UserError: lengths differ, steps do not rise, a value is NaN or infinite, or fewer than 8 blocks are filled.

    """
    t, y = np.asarray(steps, float), np.asarray(values, float)
    if t.ndim != 1 or y.shape != t.shape:
        raise UserError(f"{name}: shape {y.shape} for steps of shape {t.shape}; give one value for each step")
    _check_steps(t)
    _check_finite(y, t, name)
    positive = t[t > 0]
    x = np.log(t + positive[0]) if positive.size else t
    if blocks is None:
        return Curve(t, x, y)
    rows = np.asarray(blocks, float)
    if rows.ndim != 2 or rows.shape[1] != t.size:
        raise UserError(f"{name}: blocks of shape {rows.shape} for {t.size} steps; give one row of them for each block")
    rows = rows[~np.isnan(rows).all(axis=1)]
    if len(rows) < MIN_BLOCKS:
        raise UserError(f"{name}: {len(rows)} filled blocks, an interval needs {MIN_BLOCKS}; use a larger probe set")
    for row in rows:
        _check_finite(row, t, f"{name}, a block")
    plug_in = (y + (len(rows) - 1) * rows.mean(axis=0)) / len(rows) if corrected else y
    return Curve(t, x, y, plug_in, rows)


def log_axis(steps: Floats) -> Floats:
    """The natural logarithm of t, or ln(t + smallest positive t) where the series starts at step 0."""
    return np.log(steps) if steps[0] > 0 else np.log(steps + steps[1])


def _check_steps(steps: Floats) -> None:
    if not np.isfinite(steps).all() or (steps < 0).any():
        raise UserError("steps: some are negative, NaN or infinite; give the number of steps or tokens behind each")
    falls = np.flatnonzero(np.diff(steps) <= 0)
    if falls.size:
        before, after = steps[falls[0]], steps[falls[0] + 1]
        raise UserError(f"steps: {after:g} comes after {before:g}; sort the checkpoints, each of them once")


def _check_finite(values: Floats, steps: Floats, name: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        value, step = values[wrong[0]], steps[wrong[0]]
        raise UserError(f"{name}: {value} at step {step:g}; leave out checkpoints without a value")
