"""Sums by domain, and one pooled state per sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry.domains import DomainSums
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.forward.reading import Reading
from limberlm.observe.names import LAST, RMS


class DomainsCollector:
    """Per domain: count, total and squares of the states; per chosen sequence its mean `rms` state.

    Attributes: `sums` by (site, convention) and block; `pooled` [s, d] by site.
    """

    def __init__(
        self, conventions: tuple[str, ...], domain_of: Tensor, domains: int, place_of: Tensor, chosen: int
    ) -> None:
        self.conventions = tuple(name for name in conventions if name != LAST)
        self.domain_of, self.domains = domain_of, domains
        self.place_of, self.chosen = place_of, chosen
        self.sums: dict[tuple[str, str], dict[int, DomainSums]] = {}
        self.pooled: dict[str, Tensor] = {}

    def add(self, reading: Reading) -> None:
        """Add the states of one site of one batch."""
        for convention in self.conventions:
            totals, counts = reading.totals(convention)
            squares = reading.squares(convention)
            shift = reading.shift(convention).cpu()
            self._add_to_domains(reading, convention, shift, counts, totals, squares)
            if convention == RMS:
                self._pool(reading, totals / counts[:, None] + shift)

    def _add_to_domains(
        self, reading: Reading, convention: str, shift: Tensor, counts: Tensor, totals: Tensor, squares: Tensor
    ) -> None:
        domain = self.domain_of[torch.tensor(reading.batch.indices)]
        blocks = self.sums.setdefault((reading.site, convention), {})
        block = reading.batch.block
        if block not in blocks:
            blocks[block] = DomainSums.zeros(shift, self.domains)
        blocks[block].counts.index_add_(0, domain, counts)
        blocks[block].totals.index_add_(0, domain, totals)
        blocks[block].squares.index_add_(0, domain, squares)

    def _pool(self, reading: Reading, means: Tensor) -> None:
        places = self.place_of[torch.tensor(reading.batch.indices)]
        inside = (places >= 0) & ~means.isnan().any(1)
        kept = placed(means[inside].float(), places[inside], self.chosen, self.pooled.get(reading.site))
        self.pooled[reading.site] = kept
