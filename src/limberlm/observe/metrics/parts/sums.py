"""The sums of one site's states under one convention: moments, spectra, directions."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import sqrt
from typing import Any, Protocol, TypeVar

from torch import Tensor

from limberlm.geometry import Directions, Moments, Undefined, eigenvalues
from limberlm.geometry.between_blocks import BlockProducts
from limberlm.geometry.head import through_head
from limberlm.geometry.massive import TokenNorms
from limberlm.geometry.trajectories import WINDOW
from limberlm.geometry.units import UnitSums
from limberlm.observe.forward.observation import Observation
from limberlm.observe.names import FINAL_NORM, LOGITS, RAW, REFERENCE, RMS, TRIMMED, UNCENTRED

NOTHING = -1
"""The block that is left out, when none is."""

SHORT = f"no sequence has {WINDOW} kept tokens"
"""Why there is no trajectory."""

NO_DIRECTION = "all states are zero"
"""Why no state can be normalised."""


ALIKE = 1e-12
"""Spread, as a share of the squared mean, that float32 makes of equal states: what is left is no spectrum."""


class Sums:
    """Sums by jackknife block; what takes `out` leaves that block out.

    Attributes: `seen`, the pass; `site` and `convention` as they are reported; `source`, the site whose states were
    summed; `base`, the convention under which they were.
    """

    def __init__(self, seen: Observation, site: str, convention: str) -> None:
        self.seen, self.site, self.convention = seen, site, convention
        self.source = FINAL_NORM if site == LOGITS else site
        self.base = RMS if convention in (UNCENTRED, REFERENCE) else RAW if convention == TRIMMED else convention
        self._left: tuple[int, Moments] | None = None

    @cached_property
    def counts(self) -> dict[int, tuple[int, int]]:
        """Tokens and sequences of each block that has sequences."""
        packed = self.seen.moments.packed[self.source, self.base]
        return {block: (sums.count, sums.sequences) for block, sums in packed.items()}

    @cached_property
    def blocks(self) -> dict[int, Moments]:
        """The sums of each block."""
        blocks = self.seen.blocks(self.source, self.base)
        if self.site == LOGITS:
            return {block: through_head(sums, self.seen.head_factor) for block, sums in blocks.items()}
        if self.convention == TRIMMED:
            return {block: self._trimmed(block, sums) for block, sums in blocks.items()}
        return blocks

    def _trimmed(self, block: int, sums: Moments) -> Moments:
        large = self.seen.tokens.large.get(self.site, {}).get(block)
        if large is None:
            return sums
        massive = large[large.norm(dim=1) > self.all_norms.threshold]
        taken = Moments.zeros(sums.shift)
        taken.update(massive.double())
        return sums.without(taken)

    @cached_property
    def total(self) -> Moments:
        """The sums of all blocks together."""
        return merged(self.blocks.values())

    def moments(self, out: int) -> Moments:
        """Count, mean and second moment."""
        if out == NOTHING:
            return self.total
        if self._left is None or self._left[0] != out:
            self._left = out, self.total.without(self.blocks[out])
        return self._left[1]

    def spectrum(self, out: int, reads: str) -> Tensor:
        """Eigenvalues [d] of the covariance, of what the head sees if `reads` is "output"."""
        sums = self.moments(out)
        if reads == "output":
            final = self.site == FINAL_NORM  # its states have been multiplied by the norm's weights already
            sums = through_head(sums, self.seen.head_factor if final else self.seen.output_factor)
        return eigenvalues(_covariance(sums))

    def products(self, out: int) -> BlockProducts:
        """Products between blocks, the empty ones left out."""
        return self._all_products if out == NOTHING else self._all_products.without(self.position(out))

    @cached_property
    def _all_products(self) -> BlockProducts:
        if self.total.count == 0:
            raise Undefined(NO_DIRECTION)
        return BlockProducts.of(list(self.blocks.values()))

    def position(self, block: int) -> int:
        """Where a block stands among those that have sequences."""
        return list(self.blocks).index(block)

    def directions(self, out: int, reads: str) -> list[Directions]:
        """Sums of unit vectors by block: of states, or of mean unit steps if `reads` is "steps"."""
        sums = self.steps if reads == "steps" else self._unit_states
        if reads == "steps" and not sums:
            raise Undefined(SHORT)
        return [directions for block, directions in sums.items() if block != out]

    @cached_property
    def _unit_states(self) -> dict[int, Directions]:
        """Sums of x/|x| by block, from the sums of rms states: these are sqrt(d) x/|x|."""
        return {
            block: Directions(sums.count, (sums.total + sums.count * sums.shift) / sqrt(len(sums.shift)))
            for block, sums in self.seen.moments.packed[self.site, RMS].items()
        }

    @property
    def steps(self) -> dict[int, Directions]:
        """Sums of the directions of mean unit steps by block."""
        return {} if self.seen.windows is None else self.seen.windows.steps.get((self.site, self.base), {})

    def norms(self, out: int) -> TokenNorms:
        """Norms of the token sample and of the largest tokens."""
        return self.all_norms if out == NOTHING else self.all_norms.without(out)

    @cached_property
    def all_norms(self) -> TokenNorms:
        """Norms of the token sample and of the largest tokens of all blocks."""
        tokens, raw = self.seen.tokens, self.seen.moments.packed[self.site, self.seen.request.collected[0]]
        large = tokens.large.get(self.site, {})
        return TokenNorms(
            tokens.norms[self.site],
            self.seen.selection.block[self.seen.selection.sample.sequence],
            {block: states.double().norm(dim=1) for block, states in large.items()},
            {block: sums.count for block, sums in raw.items()},
        )

    def units(self, out: int) -> UnitSums:
        """Sums of the activations of hidden units."""
        assert self.seen.units is not None
        return less(self.seen.units.sums[self.site], out)

    @property
    def width(self) -> int:
        """Coordinates of a state."""
        return len(next(iter(self.seen.moments.packed[self.source, self.base].values())).total)


def _covariance(sums: Moments) -> Tensor:
    covariance = sums.covariance
    if 0 < float(covariance.trace()) <= ALIKE * float(sums.mean.square().sum()):
        raise Undefined("all states are equal but for rounding")
    return covariance


class _Mergeable(Protocol):
    def merge(self, other: Any, /) -> Any: ...


S = TypeVar("S", bound=_Mergeable)


def merged(blocks: Iterable[S]) -> S:
    """All sums together, about the shift of the first."""
    first, *rest = blocks
    for block in rest:
        first = first.merge(block)
    return first


def less(blocks: dict[int, S], out: int) -> S:
    """All blocks but `out` merged."""
    return merged(sums for block, sums in blocks.items() if block != out)
