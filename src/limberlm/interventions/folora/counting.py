"""Which tokens of a batch are counted in the second moments, and where they are in what a module reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.seats.tokens import IGNORED


@dataclass(frozen=True, eq=False)
class Counted:
    """The counted tokens of one batch.

    Attributes:
        shape: batch, length.
        index: their places [n] among batch x length.
        first: the places of those at position 0.
        texts: sequences with at least one.

    """

    shape: tuple[int, int]
    index: Tensor
    first: Tensor
    texts: int

    def rows(self, states: Tensor, name: str) -> tuple[Tensor, Tensor]:
        """What a module reads [..., d], as rows: of all counted tokens, and of those at position 0.

        Of states that are not one per token, as an expert is given those that are routed to it, all rows are taken,
        and none is known to be at position 0.

        Raises:
            UserError: there are such states, and tokens that are not to be counted; names the module and the shapes.

        """
        flat = states.flatten(0, -2)
        everything = self.shape[0] * self.shape[1]
        if states.shape[:-1] == self.shape or (len(flat) == everything and not _routed(name)):
            return flat[self.index.to(flat.device)], flat[self.first.to(flat.device)]
        if len(self.index) == everything:
            return flat, flat[:0]
        raise UserError(
            f"{name}: reads {list(states.shape)} of {list(self.shape)} tokens, so padding, prompts and skip_positions "
            "cannot be left out there; give run_proxy and run_task that read unpadded batches, and count all tokens"
        )


def counted(
    inputs: Mapping[str, Any],
    skip_positions: Sequence[int],
    *,
    pad: int | None = None,
    labelled: bool = False,
    only: Tensor | None = None,
) -> Counted:
    """The tokens of a batch that are counted: all but padding and skipped positions.

    Positions are `position_ids` where they are given, and otherwise count from each row's first token, so that the side
    of the padding does not matter.

    Args:
        inputs: the keyword arguments of the model's forward.
        skip_positions: not counted.
        pad: the padding token; a row that starts or ends with it needs a mask.
        labelled: whether only tokens with a label are counted, where there are labels.
        only: tokens [batch, length] that may be counted.

    Raises:
        UserError: padding without a mask, or a mask that is not one entry per token.

    """
    ids = inputs.get("input_ids")
    like = ids if ids is not None else inputs["inputs_embeds"][..., 0]
    usable = _usable(inputs.get("attention_mask"), like)
    if inputs.get("attention_mask") is None and ids is not None and pad is not None:
        _refuse_padding(ids, pad)
    given = inputs.get("position_ids")
    positions = usable.cumsum(1) - 1 if given is None or given.ndim != 2 else given.expand(like.shape)
    tokens = usable & ~torch.isin(positions, torch.tensor(skip_positions, dtype=positions.dtype, device=like.device))
    if labelled and inputs.get("labels") is not None:
        tokens &= inputs["labels"].ne(IGNORED)
    if only is not None:
        tokens &= only.to(like.device)
    index, first = (each.flatten().nonzero().squeeze(1) for each in (tokens, tokens & positions.eq(0)))
    return Counted((len(like), like.shape[1]), index, first, int(tokens.any(1).sum()))


def _usable(mask: Any, like: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(like, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.shape != like.shape:
        size = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UserError(
            f"attention_mask: {size} for {list(like.shape)} tokens; read whole texts, without a cache, and give one "
            "entry for each token"
        )
    return mask.bool()


def _refuse_padding(ids: Tensor, pad: int) -> None:
    """A single token at an end may be a text's own end token, which often pads too."""
    padded = ids.eq(pad)
    if bool((padded[:, :2].all(1) | padded[:, -2:].all(1)).any()) and ids.shape[1] > 1:
        raise UserError(f"attention_mask: none was given, and texts start or end with the padding token {pad}; give it")


def _routed(name: str) -> bool:
    """Whether a module lies in a list within a list, as experts do: it may be given any tokens in any order."""
    return sum(part.isdigit() for part in name.split(".")) > 1
