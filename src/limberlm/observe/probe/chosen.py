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


def choose_tokens(sequences: Sequence[ProbeSequence], size: int) -> ChosenTokens:
    """The `size` kept tokens of smallest hash.

    A token is ranked by blake2b(sequence hash, position); at most 2 per sequence, or `size` / sequences if that is
    more (our choice).
    """
    per_sequence = max(2, math.ceil(size / len(sequences)))
    ranked: list[tuple[bytes, int, int]] = []
    for index, sequence in enumerate(sequences):
        key = bytes.fromhex(sequence.hash)
        positions = (position for position, keep in enumerate(sequence.keep) if keep)
        ranks = (
            (blake2b(position.to_bytes(4, "little"), key=key, digest_size=8).digest(), index, row)
            for row, position in enumerate(positions)
        )
        ranked.extend(heapq.nsmallest(per_sequence, ranks))
    chosen = sorted((index, row) for _, index, row in heapq.nsmallest(size, ranked))
    sequence, row = torch.tensor(chosen).T.contiguous()
    return ChosenTokens(sequence, row)


def choose_sequences(sequences: Sequence[ProbeSequence], size: int = SEQUENCES) -> Tensor:
    """Indices [s] of the `size` sequences of smallest hash, ascending."""
    ranked = heapq.nsmallest(size, range(len(sequences)), key=lambda i: sequences[i].hash)
    return torch.tensor(sorted(ranked))
