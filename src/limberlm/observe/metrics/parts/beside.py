"""A checkpoint beside a reference that read the same tokens."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from limberlm.geometry import Moments, Undefined
from limberlm.geometry.between_blocks import CrossProducts
from limberlm.geometry.cross import CrossPart
from limberlm.geometry.similarity import Distances
from limberlm.geometry.spectrum import ROUNDING, eigensystem
from limberlm.observe.metrics.parts.samples import Samples
from limberlm.observe.metrics.parts.sums import NOTHING, Sums, merged

SUBSPACE = 32


class Beside:
    """Sums and samples of both checkpoints; what takes `out` leaves that jackknife block out."""

    def __init__(self, sums: Sums, samples: Samples) -> None:
        self.sums, self.samples, self.seen = sums, samples, sums.seen

    @cached_property
    def _blocks(self) -> dict[int, CrossPart]:
        """The sums of the checkpoint, the reference, and their products, by block."""
        assert self.seen.reference is not None
        assert self.seen.cross is not None
        own = self.sums.blocks
        others = self.seen.reference.blocks(self.sums.site, self.sums.base)
        across = self.seen.cross.blocks(self.sums.site, self.sums.base)
        counts = [{block: sums.count for block, sums in side.items()} for side in (own, others, across)]
        if not counts[0] == counts[1] == counts[2]:
            raise Undefined("a state of zero norm in one of the two checkpoints")
        return {block: CrossPart(own[block], others[block], across[block]) for block in own}

    def products(self, out: int) -> CrossProducts:
        """Products between blocks of the checkpoint and the reference."""
        return self._all_products if out == NOTHING else self._all_products.without(self.sums.position(out))

    @cached_property
    def _all_products(self) -> CrossProducts:
        parts = list(self._blocks.values())
        return CrossProducts.of([p.x for p in parts], [p.y for p in parts], [p.cross for p in parts])

    def moments(self, out: int) -> CrossPart:
        """The sums of both, and of their products."""
        return self._total if out == NOTHING else self._total.without(self._blocks[out])

    @cached_property
    def _total(self) -> CrossPart:
        x, y = (merged(getattr(part, side) for part in self._blocks.values()) for side in ("x", "y"))
        return CrossPart(x, y, merged(part.cross for part in self._blocks.values()))

    def subspaces(self, out: int) -> tuple[Tensor, Tensor]:
        """The leading directions [d, 32] of both."""
        part = self.moments(out)
        return _leading(part.x, SUBSPACE), _leading(part.y, SUBSPACE)

    def distances(self, out: int) -> Distances:
        """Pairwise cosine distances of the reservoir in both."""
        return self._all_distances if out == NOTHING else self._all_distances.without(out)

    @cached_property
    def _all_distances(self) -> Distances:
        assert self.seen.reference is not None
        other = self.seen.reference.tokens.reservoir[self.sums.site]
        sequence = self.seen.selection.reservoir.sequence
        return Distances.of(self.samples.reservoir, other, self.samples.reservoir_block, sequence)


def _leading(sums: Moments, k: int) -> Tensor:
    """The k leading eigenvectors [d, k] of the covariance."""
    values, vectors = eigensystem(sums.covariance)
    used = int((values > ROUNDING * values.max()).sum())
    if used < k:
        raise Undefined(f"needs {k} directions with variance, there are {used}")
    return vectors[:, :k]
