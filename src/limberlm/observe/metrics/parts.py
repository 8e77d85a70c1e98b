"""What each metric takes, from the statistics of a pass, with any one jackknife block left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from math import sqrt
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from limberlm.geometry import Directions, Metric, Moments, Undefined, centred_directions, eigenvalues
from limberlm.geometry.between_blocks import BlockProducts, CrossProducts
from limberlm.geometry.cross import CrossPart
from limberlm.geometry.dimension import Neighbours
from limberlm.geometry.domains import DomainSums, Pooled, domain_probe_correct
from limberlm.geometry.head import through_head
from limberlm.geometry.massive import TokenNorms
from limberlm.geometry.pairs import PairSums, unit_pairs
from limberlm.geometry.similarity import Distances
from limberlm.geometry.spectrum import ROUNDING, eigensystem
from limberlm.geometry.trajectories import WINDOW
from limberlm.geometry.units import UnitSums
from limberlm.observe.forward.observation import Observation
from limberlm.observe.forward.reading import RAW, RMS
from limberlm.observe.model.sites import FINAL_NORM, LOGITS

NOTHING = -1
"""The block that is left out, when none is."""

TRIMMED = "trimmed"
"""`raw` without the massive tokens; only where there are any."""

UNCENTRED, REFERENCE = f"{RMS}_uncentred", f"{RMS}_reference"
"""`rms` with pooled states centred by nothing, and by the mean of the reference checkpoint."""

SHORT = f"no sequence has {WINDOW} kept tokens"
"""Why there is no trajectory."""

NO_DIRECTION = "all states are zero"
"""Why no state can be normalised."""

FOLDS = 5
SUBSPACE = 32


class Parts:
    """One site under one convention.

    A part is made on first use and kept while the same block is left out, so that metrics share it: ask for all
    metrics without one block before going on to the next.
    """

    def __init__(self, observation: Observation, site: str, convention: str) -> None:
        self.seen, self.site, self.convention = observation, site, convention
        self.base = RMS if convention in (UNCENTRED, REFERENCE) else RAW if convention == TRIMMED else convention
        self.out = NOTHING
        self.made: dict[tuple[str, str], Any] = {}

    def take(self, metric: Metric, out: int) -> Any:
        """What `metric.compute` takes, without block `out`.

        Raises:
            Undefined: the statistics do not determine it.
        """
        if out != self.out:
            self.out, self.made = out, {}
        return self._made(metric.needs, metric.reads)

    def _made(self, needs: str, reads: str = "") -> Any:
        if (needs, reads) not in self.made:
            self.made[needs, reads] = getattr(self, f"_{needs}")(reads)
        return self.made[needs, reads]

    # sums of states

    @cached_property
    def blocks(self) -> dict[int, Moments]:
        """The sums of each jackknife block."""
        source = FINAL_NORM if self.site == LOGITS else self.site
        blocks = self.seen.blocks(source, self.base)
        if self.site == LOGITS:
            return {block: through_head(sums, self.seen.head_factor) for block, sums in blocks.items()}
        if self.convention == TRIMMED:
            return {block: self._trimmed(block, sums) for block, sums in blocks.items()}
        return blocks

    def _trimmed(self, block: int, sums: Moments) -> Moments:
        large = self.seen.tokens.large.get(self.site, {}).get(block)
        if large is None:
            return sums
        massive = large[large.norm(dim=1) > self.norms.threshold]
        taken = Moments.zeros(sums.shift)
        taken.update(massive.double())
        return sums.without(taken)

    @cached_property
    def total(self) -> Moments:
        """The sums of all blocks together."""
        return merged(self.blocks.values())

    def _moments(self, reads: str) -> Moments:
        return self.total if self.out == NOTHING else self.total.without(self.blocks[self.out])

    def _spectrum(self, reads: str) -> Tensor:
        sums: Moments = self._made("moments")
        if reads == "output":
            final = self.site == FINAL_NORM  # its states have been multiplied by the norm's weights already
            sums = through_head(sums, self.seen.head_factor if final else self.seen.output_factor)
        return eigenvalues(sums.covariance)

    @cached_property
    def products(self) -> BlockProducts:
        """Products between blocks, the empty ones left out."""
        if self.total.count == 0:
            raise Undefined(NO_DIRECTION)
        return BlockProducts.of(list(self.blocks.values()))

    def _blocks(self, reads: str) -> BlockProducts:
        return self.products if self.out == NOTHING else self.products.without(self._position)

    @property
    def _position(self) -> int:
        return list(self.blocks).index(self.out)

    # directions

    def _directions(self, reads: str) -> list[Directions]:
        sums = self.steps if reads == "steps" else self.units
        if reads == "steps" and not sums:
            raise Undefined(SHORT)
        return [directions for block, directions in sums.items() if block != self.out]

    @cached_property
    def units(self) -> dict[int, Directions]:
        """Sums of x/|x| by block, from the sums of rms states: these are sqrt(d) x/|x|."""
        return {
            block: Directions(sums.count, (sums.total + sums.count * sums.shift) / sqrt(len(sums.shift)))
            for block, sums in self.seen.moments.packed[self.site, RMS].items()
        }

    @property
    def steps(self) -> dict[int, Directions]:
        """Sums of the directions of mean unit steps by block."""
        return {} if self.seen.windows is None else self.seen.windows.steps.get((self.site, self.base), {})

    # values of single tokens and sequences

    @cached_property
    def sample_block(self) -> Tensor:
        """The jackknife block [m] of each token of the sample."""
        return self.seen.selection.block[self.seen.selection.sample.sequence]

    @cached_property
    def sequence_block(self) -> Tensor:
        """The jackknife block [s] of each chosen sequence."""
        return self.seen.selection.block[self.seen.selection.sequences]

    def _norms(self, reads: str) -> TokenNorms:
        return self.norms if self.out == NOTHING else self.norms.without(self.out)

    @cached_property
    def norms(self) -> TokenNorms:
        """Norms of the token sample and of the largest tokens, with their blocks."""
        tokens, raw = self.seen.tokens, self.seen.moments.packed[self.site, self.seen.plan.collected[0]]
        large = tokens.large.get(self.site, {})
        return TokenNorms(
            tokens.norms[self.site],
            self.sample_block,
            {block: states.double().norm(dim=1) for block, states in large.items()},
            {block: sums.count for block, sums in raw.items()},
        )

    def _tokens(self, reads: str) -> Tensor:
        values, block = self._by_token(reads)
        return values[block != self.out]

    def _by_token(self, reads: str) -> tuple[Tensor, Tensor]:
        """The values of tokens that have one, with the blocks of the tokens."""
        if self.site == LOGITS:
            found = None if self.seen.logits is None else self.seen.logits.values.get(reads)
            return _known(found, self.sample_block, "the reference has no head")
        found = None if self.seen.depth is None else self.seen.depth.values.get(self.site, {}).get(reads)
        return _known(found, self.sample_block, "needs the sites before this one, which are not there")

    def _sequences(self, reads: str) -> Tensor:
        values, block = self._by_sequence(reads)
        return values[block != self.out]

    def _by_sequence(self, reads: str) -> tuple[Tensor, Tensor]:
        """The values of sequences that have one, with the blocks of the sequences."""
        if reads == "domain_probe":
            return _known(self.probe_correct, self.sequence_block, SHORT)
        values = {} if self.seen.windows is None else self.seen.windows.values.get((self.site, self.base), {})
        return _known(values.get(reads), self.sequence_block, SHORT)

    @cached_property
    def probe_correct(self) -> Tensor:
        """Whether each chosen sequence's domain is named by a probe trained on the others; fitted once."""
        assert self.seen.domains is not None
        pooled = self.pooled
        same = pooled.domain[:, None] == pooled.domain
        fold = same.tril(-1).sum(1) % FOLDS  # the sequences of each domain dealt out in turn
        correct = torch.full((len(self.sequence_block),), torch.nan, dtype=torch.float64)
        correct[~self.seen.domains.pooled[self.site].isnan().any(1)] = domain_probe_correct(
            pooled.states, pooled.domain, fold
        )
        return correct

    # pooled states and domains

    def _domains(self, reads: str) -> DomainSums:
        return _less(self.domain_sums, self.out)

    @cached_property
    def domain_sums(self) -> dict[int, DomainSums]:
        """Sums by domain of each block."""
        assert self.seen.domains is not None
        return self.seen.domains.sums[self.site, self.base]

    def _pooled(self, reads: str) -> Pooled:
        left = self.pooled if self.out == NOTHING else self.pooled.without(self.out)
        return replace(left, centre=self._reference_centre()) if self.convention == REFERENCE else left

    def _reference_centre(self) -> Tensor:
        """The mean pooled state of the reference, of the same sequences: it varies with them as the states do."""
        assert self.seen.reference is not None
        assert self.seen.reference.domains is not None
        states = self.seen.reference.domains.pooled[self.site]
        return states[self.sequence_block != self.out].nanmean(0)

    @cached_property
    def pooled(self) -> Pooled:
        """One state per chosen sequence, centred on none or on their own mean."""
        assert self.seen.domains is not None
        states = self.seen.domains.pooled[self.site]
        centre = torch.zeros(states.shape[1]) if self.convention == UNCENTRED else None
        domain = self.seen.selection.domain[self.seen.selection.sequences]
        known = ~states.isnan().any(1)  # a sequence without a direction has no pooled state
        return Pooled(states[known], domain[known], self.sequence_block[known], centre)

    # the reservoir

    @cached_property
    def reservoir_block(self) -> Tensor:
        """The jackknife block [m] of each token of the reservoir."""
        return self.seen.selection.block[self.seen.selection.reservoir.sequence]

    @cached_property
    def reservoir(self) -> Tensor:
        """The states [m, d] of the reservoir under the convention."""
        return _normalised(self.seen.tokens.reservoir[self.site], self.base)

    def _centred(self, reads: str) -> list[Directions]:
        stay = self.reservoir_block != self.out
        mean = self._made("moments").mean
        states, squares = self.reservoir_squares
        return centred_directions(states[stay], self.reservoir_block[stay], mean, self.seen.plan.blocks, squares[stay])

    @cached_property
    def reservoir_squares(self) -> tuple[Tensor, Tensor]:
        """The reservoir in float64 and its squared norms."""
        states = self.reservoir.double()
        return states, states.square().sum(1)

    def _neighbours(self, reads: str) -> Neighbours:
        return self.neighbours if self.out == NOTHING else self.neighbours.left_out(self.out)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The nearest tokens of each token of the reservoir."""
        return Neighbours.of(self.reservoir, self.reservoir_block)

    def _pairs(self, reads: str) -> PairSums:
        pairs = self.gram_pairs if reads == "grams" else self.unit_pairs
        return pairs if self.out == NOTHING else pairs.without(self.out)

    @cached_property
    def unit_pairs(self) -> PairSums:
        """Kernel sums over pairs of tokens of the reservoir."""
        sequence = self.seen.selection.reservoir.sequence
        return unit_pairs(self.reservoir, self.reservoir_block, sequence, self.seen.plan.blocks)

    @cached_property
    def gram_pairs(self) -> PairSums:
        """Debiased CKA of every two sequences whose token Grams were kept."""
        vectors, block = self.grams
        if len(vectors) == 0:
            raise Undefined(SHORT)
        return PairSums.of_kernel(vectors @ vectors.T, block, torch.arange(len(vectors)), self.seen.plan.blocks)

    @cached_property
    def grams(self) -> tuple[Tensor, Tensor]:
        """The U-centred token Grams of the sequences that have one, with their blocks."""
        grams = None if self.seen.windows is None else self.seen.windows.grams.get((self.site, self.base))
        if grams is None:
            return torch.zeros(0, 1, dtype=torch.float64), self.sequence_block[:0]
        known = ~grams.isnan().any(1)
        return grams[known].double(), self.sequence_block[: len(grams)][known]

    # hidden units

    def _units(self, reads: str) -> UnitSums:
        assert self.seen.units is not None
        return _less(self.seen.units.sums[self.site], self.out)

    def _activations(self, reads: str) -> Tensor:
        assert self.seen.units is not None
        sample = self.seen.units.sample
        stay = self.seen.selection.block[sample.sequence] != self.out
        return self.seen.units.activations[self.site][stay]

    # a reference checkpoint

    @cached_property
    def beside(self) -> dict[int, CrossPart]:
        """The sums of the checkpoint, the reference, and their products, by block."""
        assert self.seen.reference is not None
        assert self.seen.cross is not None
        others = self.seen.reference.blocks(self.site, self.base)
        across = self.seen.cross.blocks(self.site, self.base)
        counts = [{block: sums.count for block, sums in side.items()} for side in (self.blocks, others, across)]
        if not counts[0] == counts[1] == counts[2]:
            raise Undefined("a state of zero norm in one of the two checkpoints")
        return {block: CrossPart(self.blocks[block], others[block], across[block]) for block in self.blocks}

    def _cross(self, reads: str) -> CrossProducts:
        return self.cross_products if self.out == NOTHING else self.cross_products.without(self._position)

    @cached_property
    def cross_products(self) -> CrossProducts:
        """Products between blocks of the checkpoint and the reference."""
        parts = list(self.beside.values())
        return CrossProducts.of([p.x for p in parts], [p.y for p in parts], [p.cross for p in parts])

    def _cross_moments(self, reads: str) -> CrossPart:
        return self.beside_total if self.out == NOTHING else self.beside_total.without(self.beside[self.out])

    @cached_property
    def beside_total(self) -> CrossPart:
        """The same of all blocks together."""
        x, y = (merged(getattr(part, side) for part in self.beside.values()) for side in ("x", "y"))
        return CrossPart(x, y, merged(part.cross for part in self.beside.values()))

    def _subspaces(self, reads: str) -> tuple[Tensor, Tensor]:
        part: CrossPart = self._made("cross_moments")
        return _leading(part.x, SUBSPACE), _leading(part.y, SUBSPACE)

    def _distances(self, reads: str) -> Distances:
        return self.distances if self.out == NOTHING else self.distances.without(self.out)

    @cached_property
    def distances(self) -> Distances:
        """Pairwise cosine distances of the reservoir in both checkpoints."""
        assert self.seen.reference is not None
        selection, other = self.seen.selection, self.seen.reference.tokens.reservoir[self.site]
        return Distances.of(self.reservoir, other, self.reservoir_block, selection.reservoir.sequence)

    # counts

    def counts(self, metric: Metric) -> tuple[int, int]:
        """Tokens and sequences that enter a metric on all blocks."""
        source = FINAL_NORM if self.site == LOGITS else self.site
        packed = self.seen.moments.packed[source, self.base].values()
        tokens, sequences = sum(sums.count for sums in packed), sum(sums.sequences for sums in packed)
        if self.convention == TRIMMED:
            tokens -= self.norms.massive
        if metric.needs in ("tokens", "sequences"):
            try:
                values = self.take(metric, NOTHING)
            except Undefined:
                return 0, 0
            return (len(values), sequences) if metric.needs == "tokens" else (tokens, len(values))
        if metric.needs == "pooled":
            return tokens, len(self.pooled.states)
        if metric.reads == "steps":
            return tokens, sum(sums.count for sums in self.steps.values())
        return tokens, len(self.grams[0]) if metric.reads == "grams" else sequences

    @property
    def filled(self) -> list[int]:
        """The jackknife blocks with sequences."""
        source = FINAL_NORM if self.site == LOGITS else self.site
        return list(self.seen.moments.packed[source, self.base])

    def holding(self, metric: Metric) -> set[int]:
        """The jackknife blocks that have a part in a metric whose value is defined; the others are empty to it."""
        if metric.needs in ("tokens", "sequences"):
            by = self._by_token if metric.needs == "tokens" else self._by_sequence
            return set(by(metric.reads)[1].tolist())
        if metric.reads == "steps":
            return {block for block, sums in self.steps.items() if sums.count}
        if metric.reads == "grams":
            return set(self.grams[1].tolist())
        if metric.needs == "pooled":
            return set(self.pooled.block.tolist())
        source = FINAL_NORM if self.site == LOGITS else self.site
        return {block for block, sums in self.seen.moments.packed[source, self.base].items() if sums.count}

    @property
    def width(self) -> int:
        """Coordinates of a state."""
        source = FINAL_NORM if self.site == LOGITS else self.site
        return len(next(iter(self.seen.moments.packed[source, self.base].values())).total)


class _Sums(Protocol):
    def merge(self, other: Any, /) -> Any: ...


S = TypeVar("S", bound=_Sums)


def merged(blocks: Iterable[S]) -> S:
    """All sums together, about the shift of the first."""
    first, *rest = blocks
    for block in rest:
        first = first.merge(block)
    return first


def _known(values: Tensor | None, block: Tensor, missing: str) -> tuple[Tensor, Tensor]:
    """The values that are not NaN, with their blocks."""
    if values is None:
        raise Undefined(missing)
    known = ~values.isnan().reshape(len(values), -1).any(1)
    return values[known], block[known]


def _less(blocks: dict[int, S], out: int) -> S:
    """All blocks but `out` merged."""
    return merged(sums for block, sums in blocks.items() if block != out)


def _leading(sums: Moments, k: int) -> Tensor:
    """The k leading eigenvectors [d, k] of the covariance."""
    values, vectors = eigensystem(sums.covariance)
    used = int((values > ROUNDING * values.max()).sum())
    if used < k:
        raise Undefined(f"needs {k} directions with variance, there are {used}")
    return vectors[:, :k]


def _normalised(states: Tensor, convention: str) -> Tensor:
    if convention != RMS:
        return states
    norms = states.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, states * sqrt(states.shape[1]) / norms, 0.0)
