"""What is kept one by one of a probe, and in which jackknife blocks its sequences are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limberlm.observe.probe.chosen import (
    RESERVOIR,
    TOKENS,
    ChosenTokens,
    choose_sequences,
    choose_tokens,
    ranked_tokens,
)
from limberlm.observe.probe.probe_set import ProbeSet


@dataclass
class Selection:
    """What the probe alone decides: jackknife blocks, domains, and which tokens and sequences are kept one by one.

    Attributes: `block` and `domain` [sequences]; `domains`, their labels; `sample` and `reservoir`, chosen tokens;
    `sequences` [s], chosen ones, with `place` [sequences] of each among them, -1 for the others.
    """

    block: Tensor
    domain: Tensor
    domains: tuple[str, ...]
    sample: ChosenTokens
    reservoir: ChosenTokens
    sequences: Tensor
    place: Tensor

    @classmethod
    def of(cls, probe: ProbeSet, blocks: int) -> Selection:
        """Choose from `probe`, its sequences in `blocks` jackknife blocks."""
        labels = tuple(sorted({sequence.domain for sequence in probe.sequences}))
        number = {label: i for i, label in enumerate(labels)}
        chosen = choose_sequences(probe.sequences)
        place = torch.full((len(probe.sequences),), -1)
        place[chosen] = torch.arange(len(chosen))
        ranked = ranked_tokens(probe.sequences, TOKENS)
        return cls(
            torch.tensor([sequence.block % blocks for sequence in probe.sequences]),
            torch.tensor([number[sequence.domain] for sequence in probe.sequences]),
            labels,
            choose_tokens(probe.sequences, TOKENS, ranked),
            choose_tokens(probe.sequences, RESERVOIR, ranked),
            chosen,
            place,
        )
