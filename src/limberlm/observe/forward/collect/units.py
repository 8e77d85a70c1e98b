"""The hidden units of each block's feed-forward layer: which never fire, which say the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from limberlm.geometry.units import UnitSums
from limberlm.observe.forward.collect.tokens import placed
from limberlm.observe.probe.batches import Batch
from limberlm.observe.probe.chosen import ChosenTokens

ROWS = 512
"""Tokens of the reservoir whose activations are kept to find units that say the same."""


class UnitsCollector:
    """Mean absolute activation of each unit by block, and the activations of 512 tokens, by `block.i`.

    Attributes: `sums` by site and jackknife block; `activations` [r, m] float32 by site.
    """

    def __init__(self, layers: dict[str, nn.Module], sample: ChosenTokens) -> None:
        self.layers = layers
        few = slice(None, None, max(1, -(-len(sample) // ROWS)))
        self.sample = ChosenTokens(sample.sequence[few].contiguous(), sample.row[few].contiguous())
        self.sums: dict[str, dict[int, UnitSums]] = {}
        self.activations: dict[str, Tensor] = {}
        self.caught: dict[str, Tensor] = {}

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While open, each forward leaves the activations that enter the layers."""
        handles = [
            layer.register_forward_pre_hook(self._catching(site), with_kwargs=True)
            for site, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _catching(self, site: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.caught[site] = args[0] if args else next(iter(kwargs.values()))

        return hook

    def add_batch(self, batch: Batch) -> None:
        """Add what one forward left."""
        rows, places = self.sample.of_batch(batch.indices, batch.starts)
        for site, hidden in self.caught.items():
            kept = hidden.reshape(-1, hidden.shape[-1])[batch.kept.to(hidden.device)].float()  # [n, m]
            blocks = self.sums.setdefault(site, {})
            if batch.block not in blocks:
                blocks[batch.block] = UnitSums.zeros(kept.shape[1])
            blocks[batch.block].update(kept)
            chosen = kept[rows.to(kept.device)]
            self.activations[site] = placed(chosen, places, len(self.sample), self.activations.get(site))
        self.caught = {}
