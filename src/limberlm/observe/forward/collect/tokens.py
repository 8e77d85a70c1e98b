"""Tokens kept one by one: the norms of a sample, the states of the reservoir, and the outsize few."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.observe.forward.reading import Reading
from limberlm.observe.probe.chosen import ChosenTokens

LARGE = 10.0
LARGEST = 256


def placed(values: Tensor, places: Tensor, total: int, kept: Tensor | None) -> Tensor:
    """`kept`, made on first use with `total` rows of NaN, with `values` at `places`.

    Small parts that are joined at the end would scatter the heap.
    """
    if kept is None:
        kept = torch.full((total, *values.shape[1:]), torch.nan, dtype=values.dtype)
    kept[places] = values.cpu()
    return kept


class TokensCollector:
    """Norms [m] of the token sample, states [m, d] of the reservoir, and the largest tokens, by site.

    The median norm is known at the end only, so each block keeps its 256 largest tokens among those over 10 x the
    median of its own first batches, of 256 tokens or more: all tokens over 20 x the final median are among them
    unless there are more than 256 in a block, or its first norms are twice as large as those of all.

    Attributes: `norms`, `reservoir` (float32, or float64 where the model is) by site; `large`, raw states [k, d] by
    site and block, with `overflow` counting those a block had no room for.
    """

    def __init__(self, sample: ChosenTokens, reservoir: ChosenTokens | None) -> None:
        self.sample, self.chosen = sample, reservoir
        self.norms: dict[str, Tensor] = {}
        self.reservoir: dict[str, Tensor] = {}
        self.large: dict[str, dict[int, Tensor]] = {}
        self.overflow: dict[str, int] = {}
        self.early: dict[str, Tensor] = {}
        self.threshold: dict[str, float] = {}

    def add(self, reading: Reading) -> None:
        """Add the states of one site of one batch."""
        site, batch = reading.site, reading.batch
        rows, places = self.sample.of_batch(batch.indices, batch.starts)
        self.norms[site] = placed(reading.norms[rows].float(), places, len(self.sample), self.norms.get(site))
        if self.chosen is not None:
            rows, places = self.chosen.of_batch(batch.indices, batch.starts)
            # a float64 model keeps its digits, a float64 working copy of float32 states need not
            kept = reading.rows[rows.to(reading.rows.device)]
            kept = kept.to(torch.float64 if reading.dtype == torch.float64 else torch.float32)
            self.reservoir[site] = placed(kept, places, len(self.chosen), self.reservoir.get(site))
        self._keep_large(reading)

    def _keep_large(self, reading: Reading) -> None:
        site, block = reading.site, reading.batch.block
        found = (reading.norms > self._threshold(reading)).nonzero().flatten()
        if not len(found):
            return
        states = reading.rows[found.to(reading.rows.device)].cpu()
        before = self.large.setdefault(site, {}).get(block)
        states = states if before is None else torch.cat([before, states])
        if len(states) > LARGEST:
            self.overflow[site] = self.overflow.get(site, 0) + len(states) - LARGEST
            states = states[states.norm(dim=1).topk(LARGEST).indices]
        self.large[site][block] = states

    def end_block(self) -> None:
        """Forget the medians: what is kept of a block depends on it alone."""
        self.early, self.threshold = {}, {}

    def _threshold(self, reading: Reading) -> float:
        """0 until enough tokens are seen for a median, so that the first few of a block may be massive."""
        site = reading.site
        if site not in self.threshold:
            seen = torch.cat([self.early.pop(site, reading.norms[:0]), reading.norms])
            if len(seen) < LARGEST:
                self.early[site] = seen
                return 0.0
            self.threshold[site] = LARGE * float(seen.median())
            block = reading.batch.block
            states = self.large.get(site, {}).get(block)
            if states is not None:
                self.large[site][block] = states[states.norm(dim=1) > self.threshold[site]]
        return self.threshold[site]
