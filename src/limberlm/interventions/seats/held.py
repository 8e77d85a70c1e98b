"""Penalties on the distance from a reference: what they are given, and when the reference reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from limberlm.interventions.seats.activations import ActivationPenalty, ActivationSettings
from limberlm.interventions.seats.reference import BASE, START, Reference
from limberlm.interventions.seats.sampling import some_sequences
from limberlm.interventions.seats.tokens import Batch


class HeldSettings(ActivationSettings):
    """Settings of penalties that hold a model to a reference."""

    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {"reference": (START, BASE)}

    reference: str = Field(START, description="`start`, the stage's own; or the model, path or hub id, to be held to")
    rows: float = Field(
        0.25, gt=0, le=1, description="share of the sequences that the reference reads; the gradient is raised for it"
    )


class HeldPenalty(ActivationPenalty):
    """A penalty on the distance of states from those of a reference, which reads a share of the sequences.

    Attributes:
        reference: the model that is held to, while training goes on.
        before: its states [n, d] of the micro-batch's chosen tokens, by site.

    """

    fewest: ClassVar[int] = 1

    def __init__(self, *, reference: str | Path | PreTrainedModel = START, **settings: Any) -> None:
        named = {"reference": str(reference)} if isinstance(reference, str | Path) else {}
        super().__init__(**settings, **named)
        self._given = reference
        self.reference: Reference | None = None
        self.before: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Take the start, or load the reference."""
        self.reference = Reference.of(self._given, model, args, state, self.name)

    def prepare(self, batch: Batch, model: nn.Module) -> Batch | None:
        """Read the reference on some of the sequences."""
        some = some_sequences(batch, self.settings.rows)
        self.before = {} if some is None else cast(Reference, self.reference).states(some, self.sites)
        return some

    def detach(self) -> None:
        """Remove every hook, and let go of the reference."""
        super().detach()
        self.before, self.reference = {}, None
