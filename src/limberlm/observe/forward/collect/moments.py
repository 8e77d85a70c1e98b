"""First and second moments by site, convention and jackknife block: what spectra come from."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry import PackedMoments, RunningMoments
from limberlm.observe.forward.reading import Reading
from limberlm.observe.names import FINAL_NORM, LAST


class MomentsCollector:
    """The sums of the block being read, on the device of the states; the host gets them at its end.

    Attributes: `packed` by (site, convention) and jackknife block.
    """

    def __init__(self, conventions: tuple[str, ...]) -> None:
        self.conventions = conventions
        self.packed: dict[tuple[str, str], dict[int, PackedMoments]] = {}
        self.running: dict[tuple[str, str], tuple[RunningMoments, torch.dtype]] = {}

    def add(self, reading: Reading) -> None:
        """Add the states of one site of one batch."""
        for convention in self.conventions:
            if convention != LAST:
                rows, totals = reading.centred(convention), reading.totals(convention)[0]
                sums = self._sums(reading, convention, reading.shift(convention), rows.dtype)
                sums.update(rows, totals.sum(0), len(totals))
            elif reading.site == FINAL_NORM:
                ends = reading.batch.lengths.cumsum(0) - 1
                last = reading.rows[ends.to(reading.rows.device)].double()
                shift = reading.shift(LAST, last)
                centred = last - shift
                self._sums(reading, LAST, shift, last.dtype).update(centred, centred.sum(0), len(last))

    def _sums(self, reading: Reading, convention: str, shift: Tensor, dtype: torch.dtype) -> RunningMoments:
        key = (reading.site, convention)
        if key not in self.running:
            self.running[key] = RunningMoments.zeros(shift), dtype
        return self.running[key][0]

    def end_block(self, block: int) -> None:
        """Hand the sums of the finished block to the host."""
        for key, (sums, dtype) in self.running.items():
            self.packed.setdefault(key, {})[block] = sums.packed(dtype)
        self.running = {}
