"""Prescribed states through the real pass: every number of a picture comes from the collectors that measure models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import GPTNeoXConfig

from limberlm.observe.forward.observation import Observation, Subject, observe
from limberlm.observe.forward.request import Request
from limberlm.observe.model.sites import Sites
from limberlm.observe.names import EMBED
from limberlm.observe.probe.probe_set import ProbeSequence, ProbeSet


class Told(nn.Module):
    """A block whose output was decided beforehand."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states  # [rows, d]; the id of a token is its row

    def forward(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The states of the tokens `ids`, whatever comes in."""
        return self.states[ids]


class Prescribed(nn.Module):
    """A decoder of prescribed states [S, T, d]: those that enter block 0, then those that leave each block."""

    def __init__(self, sites: Sequence[Tensor]) -> None:
        super().__init__()
        self.config = GPTNeoXConfig(hidden_size=sites[0].shape[-1], num_attention_heads=1)
        self.entering, *leaving = (states.flatten(0, 1) for states in sites)
        self.blocks = nn.ModuleList(Told(states) for states in leaving)
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> None:
        """Run the blocks one after the other."""
        hidden = self.entering[input_ids]
        for block in self.blocks:
            hidden = block(hidden, input_ids)

    @property
    def subject(self) -> Subject:
        """The model with the parts that the pass reads."""
        return Subject(self, Sites(self, self.blocks, self.blocks[-1]))  # type: ignore[arg-type]


def passed(
    sites: Sequence[Tensor],
    domain: Tensor,
    asked: Request,
    *,
    names: Sequence[str] = ("block.0",),
    reference: Sequence[Tensor] | None = None,
) -> Observation:
    """What the pass keeps of the states at `names`, beside those of a `reference` of as many texts."""
    count, tokens = sites[0].shape[:2]
    sequences = tuple(
        ProbeSequence(tuple(range(i * tokens, (i + 1) * tokens)), f"domain {int(domain[i])}", (True,) * tokens)
        for i in range(count)
    )
    subject = Prescribed(sites).subject
    other = None if reference is None else Prescribed(reference).subject
    probe = ProbeSet(sequences, "prescribed", tokens)
    return observe(subject.model, subject.sites, names, probe, request=asked, reference=other, batch_size=count)


def all_sites(blocks: int) -> list[str]:
    """`embed` and every block."""
    return [EMBED, *(f"block.{i}" for i in range(blocks))]
