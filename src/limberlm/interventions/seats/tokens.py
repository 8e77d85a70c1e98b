"""Which tokens of a micro-batch a penalty reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

import torch
from torch import Tensor

Tokens = Literal["completion", "all"]
IGNORED = -100
"""The label of a token whose loss does not count."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the model was given it, and the tokens of it that a penalty reads.

    Attributes:
        index: [n] positions of the chosen tokens among the batch * length tokens.
        sequences: [n] which sequence each belongs to; a row, or a document in a packed one.
        shape: batch, length.
        inputs: the keyword arguments of the model's forward.
        step: optimiser steps taken before.
        micro: number of the micro-batch inside its optimiser step, over all processes.
        seed: of the training.
        scale: by which the gradient of these tokens is multiplied, where they stand for others too.

    """

    index: Tensor
    sequences: Tensor
    shape: tuple[int, int]
    inputs: Mapping[str, Any]
    step: int
    micro: int
    seed: int
    scale: float = 1.0

    def draw(self, purpose: str = "") -> int:
        """A number below 2^32 that seed, step, micro-batch and purpose decide: no random state is touched."""
        return draw(self.seed, self.step, self.micro, purpose)


def draw(seed: int, step: int, micro: int, purpose: str = "") -> int:
    """A number below 2^32, the same wherever and whenever it is asked for."""
    return int.from_bytes(blake2b(f"{seed}/{step}/{micro}/{purpose}".encode(), digest_size=4).digest(), "big")


def choose(
    inputs: Mapping[str, Any], tokens: Tokens, most: int | None, start: int, *, predicting: bool = False
) -> tuple[Tensor, Tensor]:
    """The chosen tokens' positions among the batch's, and the sequence of each.

    Padding is never read, and the first token of each sequence only for what it predicts (its state attracts attention
    whatever it says); a prompt that several rows share is read once, for causal attention gives each of its copies the
    same states.

    Args:
        inputs: the model's keyword arguments: `input_ids` [batch, length] or `inputs_embeds`; `attention_mask`,
            `position_ids` and `labels` where there are any.
        tokens: `completion`, those with a label (all of them where there are no labels), or `all`.
        most: of each sequence, evenly spaced; None for all.
        start: decides where the spacing starts.
        predicting: the tokens whose next one is asked for, in place of those themselves.

    """
    given = inputs.get("input_ids")
    shaped = given if given is not None else inputs["inputs_embeds"][..., 0]
    mask = inputs.get("attention_mask")
    usable = torch.ones_like(shaped, dtype=torch.bool) if mask is None or mask.ndim != 2 else mask.bool()
    sequences = sequence_numbers(inputs.get("position_ids"), usable)
    first = torch.ones_like(usable)
    first[:, 1:] = (sequences[:, 1:] != sequences[:, :-1]) | ~usable[:, :-1]
    labels = inputs.get("labels")
    if labels is not None and tokens == "completion":
        wanted = labels.ne(IGNORED)
    else:
        wanted = usable if given is None or labels is None else usable & ~_repeated(given, labels, usable)
    if predicting:
        wanted = torch.cat([wanted[:, 1:] & ~first[:, 1:], torch.zeros_like(wanted[:, :1])], dim=1)
    read = usable & wanted if predicting else usable & wanted & ~first
    index = read.flatten().nonzero().squeeze(1)
    chosen = sequences.flatten()[index]
    if most is not None:
        kept = _spaced(chosen, most, start)
        index, chosen = index[kept], chosen[kept]
    return index, chosen


def sequence_numbers(positions: Tensor | None, usable: Tensor) -> Tensor:
    """Number of each token's sequence [batch, length]: its row, or its part of a row in which positions start anew."""
    rows, length = usable.shape
    if positions is None or positions.shape[-1] != length or positions.ndim != 2:
        return torch.arange(rows, device=usable.device)[:, None].expand(rows, length)
    starts = (positions.expand(rows, length) == 0) & usable
    starts = starts.clone()
    starts[:, 0] = True
    return starts.flatten().cumsum(0).reshape(rows, length) - 1


def _repeated(tokens: Tensor, labels: Tensor, usable: Tensor) -> Tensor:
    """Prompt tokens [batch, length] of the rows whose whole prompt an earlier row has."""
    prompt = usable & labels.eq(IGNORED) & (labels.ne(IGNORED).cumsum(1) == 0)
    place = prompt.cumsum(1)
    # two sums of products with odd numbers that depend on the place: equal prompts agree, others practically never
    mixed = (tokens.long() + 1) * (place * 2654435761 + 40503)
    prints = torch.stack([(mixed * prompt).sum(1), ((mixed ^ (mixed >> 13)) * prompt).sum(1), prompt.sum(1)], 1)
    same = (prints[:, None] == prints[None]).all(-1).tril(-1).any(1)
    return prompt & same[:, None]


def _spaced(sequences: Tensor, most: int, start: int) -> Tensor:
    """Whether each token [n] is kept where at most `most` of each sequence may be; a sequence's are neighbours."""
    if not len(sequences):
        return torch.zeros_like(sequences, dtype=torch.bool)
    _, inverse, counts = sequences.unique_consecutive(return_inverse=True, return_counts=True)
    rank = torch.arange(len(sequences), device=sequences.device) - (counts.cumsum(0) - counts)[inverse]
    stride = (counts + most - 1) // most
    offset = (start + 40503 * torch.arange(len(counts), device=sequences.device)) % stride
    kept: Tensor = (rank + offset[inverse]) % stride[inverse] == 0
    return kept
