"""What was kept one by one at a site: tokens, sequences, and the reservoir."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor

from limberlm.geometry import Directions, Undefined, centred_directions
from limberlm.geometry.dimension import Neighbours
from limberlm.geometry.domains import DomainSums, Pooled, domain_probe_correct
from limberlm.geometry.pairs import PairSums, unit_pairs
from limberlm.observe.metrics.parts.sums import NOTHING, SHORT, Sums, less
from limberlm.observe.names import LOGITS, REFERENCE, RMS, UNCENTRED

FOLDS = 5


class Samples:
    """Chosen tokens and sequences, with the jackknife blocks they are of; what takes `out` leaves that block out."""

    def __init__(self, sums: Sums) -> None:
        self.sums, self.seen, self.site = sums, sums.seen, sums.site
        self.key = sums.site, sums.base

    # values of tokens and sequences

    def tokens(self, out: int, reads: str) -> Tensor:
        """The values of tokens that have one."""
        values, block = self.by_token(reads)
        return values[block != out]

    def by_token(self, reads: str) -> tuple[Tensor, Tensor]:
        """The values of tokens that have one, with the blocks of the tokens."""
        sample_block = self.seen.selection.block[self.seen.selection.sample.sequence]
        if self.site == LOGITS:
            found = None if self.seen.logits is None else self.seen.logits.values.get(LOGITS, {}).get(reads)
            return _known(found, sample_block, "the reference has no head")
        found = None if self.seen.depth is None else self.seen.depth.values.get(self.site, {}).get(reads)
        return _known(found, sample_block, "needs the sites before this one, which are not there")

    def sequences(self, out: int, reads: str) -> Tensor:
        """The values of sequences that have one."""
        values, block = self.by_sequence(reads)
        return values[block != out]

    def by_sequence(self, reads: str) -> tuple[Tensor, Tensor]:
        """The values of sequences that have one, with the blocks of the sequences."""
        if reads == "domain_probe":
            return _known(self._probe_correct, self._sequence_block, SHORT)
        values = {} if self.seen.windows is None else self.seen.windows.values.get(self.key, {})
        return _known(values.get(reads), self._sequence_block, SHORT)

    @cached_property
    def _sequence_block(self) -> Tensor:
        """The jackknife block [s] of each chosen sequence."""
        return self.seen.selection.block[self.seen.selection.sequences]

    @cached_property
    def _probe_correct(self) -> Tensor:
        """Whether each chosen sequence's domain is named by a probe trained on the others; fitted once."""
        assert self.seen.domains is not None
        pooled = self.all_pooled
        same = pooled.domain[:, None] == pooled.domain
        fold = same.tril(-1).sum(1) % FOLDS  # the sequences of each domain dealt out in turn
        correct = torch.full((len(self._sequence_block),), torch.nan, dtype=torch.float64)
        correct[~self.seen.domains.pooled[self.site].isnan().any(1)] = domain_probe_correct(
            pooled.states, pooled.domain, fold
        )
        return correct

    # domains

    def domains(self, out: int) -> DomainSums:
        """Sums by domain."""
        assert self.seen.domains is not None
        return less(self.seen.domains.sums[self.key], out)

    def pooled(self, out: int) -> Pooled:
        """One state per chosen sequence."""
        left = self.all_pooled if out == NOTHING else self.all_pooled.without(out)
        return replace(left, centre=self._reference_centre(out)) if self.sums.convention == REFERENCE else left

    def _reference_centre(self, out: int) -> Tensor:
        """The mean pooled state of the reference, of the same sequences: it varies with them as the states do."""
        assert self.seen.reference is not None
        assert self.seen.reference.domains is not None
        states = self.seen.reference.domains.pooled[self.site]
        return states[self._sequence_block != out].nanmean(0)

    @cached_property
    def all_pooled(self) -> Pooled:
        """One state per chosen sequence of all blocks, centred on none or on their own mean."""
        assert self.seen.domains is not None
        states = self.seen.domains.pooled[self.site]
        centre = torch.zeros(states.shape[1]) if self.sums.convention == UNCENTRED else None
        domain = self.seen.selection.domain[self.seen.selection.sequences]
        known = ~states.isnan().any(1)  # a sequence without a direction has no pooled state
        return Pooled(states[known], domain[known], self._sequence_block[known], centre)

    # the reservoir

    @cached_property
    def reservoir_block(self) -> Tensor:
        """The jackknife block [m] of each token of the reservoir."""
        return self.seen.selection.block[self.seen.selection.reservoir.sequence]

    @cached_property
    def reservoir(self) -> Tensor:
        """The states [m, d] of the reservoir under the convention."""
        return _normalised(self.seen.tokens.reservoir[self.site], self.sums.base)

    def centred(self, out: int) -> list[Directions]:
        """Sums of the directions of the reservoir's states from the mean of all."""
        stay = self.reservoir_block != out
        states, squares = self._reservoir_squares
        return centred_directions(
            states[stay],
            self.reservoir_block[stay],
            self.sums.moments(out).mean,
            self.seen.request.blocks,
            squares[stay],
        )

    @cached_property
    def _reservoir_squares(self) -> tuple[Tensor, Tensor]:
        """The reservoir in float64 and its squared norms."""
        states = self.reservoir.double()
        return states, states.square().sum(1)

    def neighbours(self, out: int) -> Neighbours:
        """The nearest tokens of each token of the reservoir."""
        return self._all_neighbours if out == NOTHING else self._all_neighbours.left_out(out)

    @cached_property
    def _all_neighbours(self) -> Neighbours:
        return Neighbours.of(self.reservoir, self.reservoir_block)

    def pairs(self, out: int, reads: str) -> PairSums:
        """Kernel sums over pairs of tokens of the reservoir, or of sequences' token Grams."""
        pairs = self._gram_pairs if reads == "grams" else self._unit_pairs
        return pairs if out == NOTHING else pairs.without(out)

    @cached_property
    def _unit_pairs(self) -> PairSums:
        sequence = self.seen.selection.reservoir.sequence
        return unit_pairs(self.reservoir, self.reservoir_block, sequence, self.seen.request.blocks)

    @cached_property
    def _gram_pairs(self) -> PairSums:
        """Debiased CKA of every two sequences whose token Grams were kept."""
        vectors, block = self.grams
        if len(vectors) == 0:
            raise Undefined(SHORT)
        return PairSums.of_kernel(vectors @ vectors.T, block, torch.arange(len(vectors)), self.seen.request.blocks)

    @cached_property
    def grams(self) -> tuple[Tensor, Tensor]:
        """The U-centred token Grams of the sequences that have one, with their blocks."""
        grams = None if self.seen.windows is None else self.seen.windows.grams.get(self.key)
        if grams is None:
            return torch.zeros(0, 1, dtype=torch.float64), self._sequence_block[:0]
        known = ~grams.isnan().any(1)
        return grams[known].double(), self._sequence_block[: len(grams)][known]

    def activations(self, out: int) -> Tensor:
        """The hidden units [r, m] of some tokens of the reservoir."""
        assert self.seen.units is not None
        sample = self.seen.units.sample
        stay = self.seen.selection.block[sample.sequence] != out
        return self.seen.units.activations[self.site][stay]


def _known(values: Tensor | None, block: Tensor, missing: str) -> tuple[Tensor, Tensor]:
    """The values that are not NaN, with their blocks."""
    if values is None:
        raise Undefined(missing)
    known = ~values.isnan().reshape(len(values), -1).any(1)
    return values[known], block[known]


def _normalised(states: Tensor, convention: str) -> Tensor:
    if convention != RMS:
        return states
    norms = states.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, states * sqrt(states.shape[1]) / norms, 0.0)
