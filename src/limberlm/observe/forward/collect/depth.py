"""How far a token travels from block to block."""

from __future__ import annotations

from torch import Tensor

from limberlm.geometry.trajectories import depth_path, layer_alignment, layer_velocity
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.forward.reading import Reading
from limberlm.observe.names import EMBED
from limberlm.observe.probe.chosen import ChosenTokens

DEPTH = frozenset({"layer_velocity", "depth_path", "layer_alignment"})
"""What is kept per token, by the name that metrics read."""


class DepthCollector:
    """Layer velocity, depth path and layer alignment of the token sample, where the block before was read too.

    Attributes: `values` [m] by site and name.
    """

    def __init__(self, sample: ChosenTokens) -> None:
        self.sample = sample
        self.values: dict[str, dict[str, Tensor]] = {}
        self.start: Tensor | None = None  # the states of the sample as they enter block 0
        self.before: Tensor | None = None
        self.update: Tensor | None = None
        self.path: Tensor | None = None
        self.next = ""

    def add(self, reading: Reading) -> None:
        """Add the states of one site of one batch."""
        batch = reading.batch
        rows, places = self.sample.of_batch(batch.indices, batch.starts)
        states = reading.rows[rows.to(reading.rows.device)].float()
        if reading.site == EMBED:
            self.start, self.path, self.update = states, None, None
        elif reading.site == self.next and self.before is not None:
            self._step(reading.site, self.before.to(states.device), states, places)
        else:
            self.update = self.path = None
        self.before = states
        self.next = "block.0" if reading.site == EMBED else _after(reading.site)

    def _step(self, site: str, before: Tensor, states: Tensor, places: Tensor) -> None:
        found = {"layer_velocity": layer_velocity(before, states)}
        update = states - before
        length = update.norm(dim=1)
        if site == "block.0":
            self.path = length
        elif self.update is not None:
            found["layer_alignment"] = layer_alignment(self.update.to(update.device), update)
            self.path = self.path.to(length.device) + length if self.path is not None else None
        if self.path is not None and self.start is not None:
            found["depth_path"] = depth_path(self.path, (states - self.start.to(states.device)).norm(dim=1))
        self.update = update
        kept = self.values.setdefault(site, {})
        for name, values in found.items():
            kept[name] = placed(values.float(), places, len(self.sample), kept.get(name))


def _after(site: str) -> str:
    return f"block.{int(site.removeprefix('block.')) + 1}" if site.startswith("block.") else ""
