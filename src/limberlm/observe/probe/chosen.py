"""Which tokens and sequences are kept one by one: chosen by the probe alone, so the same for every checkpoint."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from limberlm.observe.probe.probe_set import ProbeSequence

RESERVOIR = 2048
TOKENS = 16384
SEQUENCES = 1024

Ranked = tuple[bytes, int, int]
"""Hash, sequence and row of a kept token."""


@dataclass(frozen=True)
class ChosenTokens:
    """Kept tokens of a probe, in reading order: `sequence` [m] they belong to, `row` [m] among its kept tokens."""

    sequence: Tensor
    row: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def of_batch(self, indices: Sequence[int], starts: Tensor) -> tuple[Tensor, Tensor]:
        """Rows among the kept tokens of a batch, and their places among the chosen, for sequences `indices`."""
        wanted = torch.tensor(indices)
        first = torch.searchsorted(self.sequence, wanted)
        last = torch.searchsorted(self.sequence, wanted, right=True)
        places = torch.cat([torch.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)])
        return self.row[places] + starts.repeat_interleave(last - first), places


def choose_tokens(
    sequences: Sequence[ProbeSequence], size: int, ranked: Sequence[Sequence[Ranked]] | None = None
) -> ChosenTokens:
    """The `size` kept tokens of smallest hash.

    A token is ranked by blake2b(sequence hash, position); at most 2 per sequence, or `size` / sequences if that is
    more (our choice). `ranked`: what `ranked_tokens` gives for this size or a larger one, where it is known.
    """
    ranked = ranked_tokens(sequences, size) if ranked is None else ranked
    most = _per_sequence(sequences, size)
    chosen = sorted((i, row) for _, i, row in heapq.nsmallest(size, (one for few in ranked for one in few[:most])))
    sequence, row = torch.tensor(chosen).T.contiguous()
    return ChosenTokens(sequence, row)


def ranked_tokens(sequences: Sequence[ProbeSequence], size: int) -> list[list[Ranked]]:
    """Of each sequence the tokens that may be among the `size` of smallest hash, smallest first."""
    most, found = _per_sequence(sequences, size), []
    for index, sequence in enumerate(sequences):
        key = bytes.fromhex(sequence.hash)
        positions = (position for position, keep in enumerate(sequence.keep) if keep)
        ranks = (
            (blake2b(position.to_bytes(4, "little"), key=key, digest_size=8).digest(), index, row)
            for row, position in enumerate(positions)
        )
        found.append(heapq.nsmallest(most, ranks))
    return found


def _per_sequence(sequences: Sequence[ProbeSequence], size: int) -> int:
    return max(2, math.ceil(size / len(sequences)))


def choose_sequences(sequences: Sequence[ProbeSequence], size: int = SEQUENCES) -> Tensor:
    """Indices [s] of the `size` sequences of smallest hash, ascending."""
    ranked = heapq.nsmallest(size, range(len(sequences)), key=lambda i: sequences[i].hash)
    return torch.tensor(sorted(ranked))
