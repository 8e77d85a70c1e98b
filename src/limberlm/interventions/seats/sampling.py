"""Some of a micro-batch's sequences, drawn so that what they say is on average what all say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from limberlm.interventions.seats.tokens import Batch, sequence_numbers


def systematic(count: int, share: float, start: float) -> Tensor:
    """Which of `count` things [count] are drawn: each with probability `share` if `start` is uniform in [0, 1).

    Every (1/share)-th one from a random start, so that their number is count * share, up or down to a whole one.

    Source: systematic sampling with equal probabilities (Madow 1949).

    >>> systematic(8, 0.25, 0.5).tolist()
    [False, True, False, False, False, True, False, False]
    >>> [systematic(1, 0.25, start).item() for start in (0.0, 0.25, 0.5, 0.75)]
    [False, False, False, True]
    """
    passed = torch.floor(start + share * torch.arange(count + 1, dtype=torch.float64))
    return passed[1:] > passed[:-1]


def some_sequences(batch: Batch, share: float) -> Batch | None:
    """The batch with the tokens of a share of its sequences; None where none is drawn.

    The gradient of a mean over its tokens, times its `scale`, is over the draws the gradient of the mean over all.
    Where the share of the sequences is less than one, one is drawn in some of the micro-batches only.
    """
    if share == 1:
        return batch
    names, numbers = batch.sequences.unique_consecutive(return_inverse=True)
    drawn = systematic(len(names), share, batch.draw("sequences") / 2**32).to(numbers.device)
    kept = drawn[numbers].nonzero().squeeze(1)
    if not len(kept):
        return None
    scale = batch.scale * len(kept) / (len(numbers) * share)
    return replace(batch, index=batch.index[kept], sequences=batch.sequences[kept], scale=scale)


def inputs_of(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of the sequences that the batch's tokens are in, and those tokens' places [n] among them.

    What comes after the last of these tokens is left away, for under causal attention they do not see it. Documents
    packed into one row are taken out of it.
    """
    positions = batch.inputs.get("position_ids")
    if batch.shape[0] == 1 and batch.inputs.get("attention_mask") is None and positions is not None:
        return _documents(batch, positions)
    length = batch.shape[1]
    rows, row = (batch.index // length).unique(return_inverse=True)
    place = batch.index % length
    end = int(place.max()) + 1
    return {name: _cut(value, batch.shape, rows, end) for name, value in _tensors(batch)}, row * end + place


def _documents(batch: Batch, positions: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    numbers = sequence_numbers(positions, torch.ones(batch.shape, dtype=torch.bool, device=positions.device))[0]
    kept = torch.isin(numbers, batch.sequences.unique()).nonzero().squeeze(1)
    return {name: value[:, kept] for name, value in _tensors(batch)}, torch.searchsorted(kept, batch.index)


def _tensors(batch: Batch) -> list[tuple[str, Any]]:
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")
    return [(name, batch.inputs[name]) for name in names if batch.inputs.get(name) is not None]


def _cut(value: Tensor, shape: tuple[int, int], rows: Tensor, end: int) -> Tensor:
    """The rows, and the tokens before `end`, of a tensor [batch or 1, length, ...] or a mask [batch, 1, l, l]."""
    chosen = value[rows] if value.shape[0] == shape[0] else value
    return chosen[..., :end, :end] if value.ndim == 4 else chosen[:, :end]
