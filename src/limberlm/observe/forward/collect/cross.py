"""Products of a checkpoint's states with those of a reference at the same tokens."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from limberlm.geometry.cross import CrossMoments
from limberlm.observe.forward.reading import Reading
from limberlm.observe.names import LAST, RMS


class CrossCollector:
    """The sums of the block being read; the host gets them at its end.

    Attributes: `sums` by (site, convention) and jackknife block.
    """

    def __init__(self, conventions: tuple[str, ...]) -> None:
        self.conventions = tuple(name for name in conventions if name != LAST)
        self.sums: dict[tuple[str, str], dict[int, CrossMoments]] = {}
        self.running: dict[tuple[str, str], CrossMoments] = {}
        self.dtypes: dict[tuple[str, str], torch.dtype] = {}

    def add(self, reading: Reading, beside: Reading) -> None:
        """Add one site of one batch: `reading` of the checkpoint, `beside` of the reference."""
        for convention in self.conventions:
            x, y = reading.under(convention), beside.under(convention)
            if convention == RMS and (reading.zeros or beside.zeros):
                both = (reading.norms > 0) & (beside.norms > 0)
                x, y = x[both.to(x.device)], y[both.to(y.device)]
            key = (reading.site, convention)
            if key not in self.running and len(x):
                shifts = (rows.mean(0, dtype=torch.float64) for rows in (x, y.to(x.device)))
                self.running[key] = CrossMoments.zeros(*shifts)
                self.dtypes[key] = x.dtype if x.dtype == y.dtype else torch.float32
            if len(x):
                self.running[key].update(x, y.to(x.device))

    def end_block(self, block: int) -> None:
        """Hand the sums of the finished block to the host."""
        for key, sums in self.running.items():
            self.sums.setdefault(key, {})[block] = _converted(sums, self.dtypes[key])
        self.running = {}

    def blocks(self, site: str, convention: str) -> dict[int, CrossMoments]:
        """The sums of each jackknife block, in float64."""
        return {block: _converted(sums, torch.float64) for block, sums in self.sums.get((site, convention), {}).items()}


def _converted(sums: CrossMoments, dtype: torch.dtype) -> CrossMoments:
    """The sums on the host, the product in `dtype`: that of the products rounds it no further than they were."""
    parts = {field.name: getattr(sums, field.name) for field in fields(sums)}
    parts = {name: part.cpu() if isinstance(part, Tensor) else part for name, part in parts.items()}
    return CrossMoments(**{**parts, "product": parts["product"].to(dtype)})
