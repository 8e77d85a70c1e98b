"""Token trajectories: the first 64 kept tokens of each chosen sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry import Directions
from limberlm.geometry.trajectories import WINDOW, trajectory_values
from limberlm.geometry.windows import hsic_vectors, spectral_values
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.forward.reading import Reading
from limberlm.observe.names import LAST

STEPS, GRAMS = "steps", "grams"
"""What metrics of whole trajectories read: mean unit steps, and token Grams."""

SPECTRAL = frozenset({"diff_erank", "matrix_entropy", "trajectory_rank"})

HSIC = 256
"""Sequences whose token Grams are kept: 16 KB each, at any width."""


class WindowsCollector:
    """Per-sequence values of a trajectory, and the mean unit step of each, summed by block.

    Attributes: `values` [s] or [s, c] by (site, convention) and name, NaN for sequences shorter than the window;
    `steps`, sums of unit directions of the mean unit steps by (site, convention) and block; `grams` [s', W * W] by
    (site, convention), of the first 256 chosen sequences.
    """

    def __init__(self, conventions: tuple[str, ...], reads: frozenset[str], place_of: Tensor, chosen: int) -> None:
        self.conventions = tuple(name for name in conventions if name != LAST)
        self.reads, self.place_of, self.chosen = reads, place_of, chosen
        self.values: dict[tuple[str, str], dict[str, Tensor]] = {}
        self.steps: dict[tuple[str, str], dict[int, Directions]] = {}
        self.grams: dict[tuple[str, str], Tensor] = {}

    def add(self, reading: Reading) -> None:
        """Add the states of one site of one batch."""
        batch = reading.batch
        places = self.place_of[torch.tensor(batch.indices)]
        long = (places >= 0) & (batch.lengths >= WINDOW)
        if not bool(long.any()):
            return
        rows = (batch.starts[long][:, None] + torch.arange(WINDOW)).to(reading.rows.device)
        for convention in self.conventions:
            states = reading.under(convention)[rows]  # [b, W, d]
            self._keep((reading.site, convention), states, places[long], batch.block)

    def _keep(self, key: tuple[str, str], states: Tensor, places: Tensor, block: int) -> None:
        found = trajectory_values(states)
        steps = found.pop("mean_unit_step")
        if STEPS in self.reads:
            sums = self.steps.setdefault(key, {})
            if block not in sums:
                sums[block] = Directions.zeros(states.shape[2])
            sums[block].update(steps)
        if self.reads & SPECTRAL:
            found |= spectral_values(states)
        kept = self.values.setdefault(key, {})
        for name in found.keys() & self.reads:
            kept[name] = placed(found[name].double(), places, self.chosen, kept.get(name))
        first = places < HSIC
        if GRAMS in self.reads and bool(first.any()):
            vectors = hsic_vectors(states[first.to(states.device)]).float()
            self.grams[key] = placed(vectors, places[first], min(HSIC, self.chosen), self.grams.get(key))
