"""The probe as batches: padded, of near-equal length, none with sequences of two jackknife blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from limberlm.observe.probe.probe_set import ProbeSequence, ProbeSet

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """Sequences of one block, padded.

    Attributes:
        number: of the batch, from 0.
        block: the jackknife block of all its sequences.
        indices: of the sequences in the probe.
        sequences: themselves.
        inputs: what the model takes, [b, t] each, on its device.
        kept: indices [n] of the kept tokens among the b * t positions, sequence by sequence.
        lengths: kept tokens [b] of each sequence.
    """

    number: int
    block: int
    indices: list[int]
    sequences: Sequence[ProbeSequence]
    inputs: dict[str, Tensor]
    kept: Tensor
    lengths: Tensor

    @property
    def starts(self) -> Tensor:
        """First row [b] of each sequence among the kept tokens."""
        return self.lengths.cumsum(0) - self.lengths

    def sequence_of(self, row: int) -> ProbeSequence:
        """The sequence that the kept token `row` belongs to."""
        return self.sequences[int((self.lengths.cumsum(0) <= row).sum())]


def batches(
    probe: ProbeSet,
    batch_size: int,
    side: PaddingSide,
    device: torch.device,
    blocks: int,
    only: Collection[int] | None = None,
) -> Iterator[Batch]:
    """Batches in canonical order, by jackknife block of `blocks`; of all, or of those in `only`."""
    number = 0
    for block in range(blocks):
        indices = [i for i, sequence in enumerate(probe.sequences) if sequence.block % blocks == block]
        # sequences are in order of (block, length): batches stay of near-equal length when blocks are joined too
        indices.sort(key=lambda i: len(probe.sequences[i].ids))
        if only is not None and block not in only:
            number += -(-len(indices) // batch_size)  # batches are called the same, whoever reads them
            continue
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            sequences = [probe.sequences[i] for i in part]
            inputs, keep = padded(sequences, side)
            lengths = torch.tensor([sequence.kept for sequence in sequences])
            kept = keep.flatten().nonzero().flatten().to(device)
            on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
            yield Batch(number, block, part, sequences, on_device, kept, lengths)
            number += 1


def padded(sequences: Sequence[ProbeSequence], side: PaddingSide) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs [b, t] and the kept positions [b, t].

    Pads repeat the last token: the mask hides them, but a weight of 0 on a state that overflows is still NaN, and
    an untrained padding token may overflow.
    """
    longest = max(len(sequence.ids) for sequence in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, keep = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence.ids)
        where = slice(longest - length, longest) if side == "left" else slice(0, length)
        ids[row] = sequence.ids[-1]
        ids[row, where] = torch.tensor(sequence.ids)
        keep[row, where] = torch.tensor(sequence.keep)
        mask[row, where] = 1
    # positions count real tokens, so that left padding does not shift them
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, keep
