"""`FeatureAnchor`: hidden states that keep the directions they had when the stage began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from limberlm.interventions.anchors.formulas import anchored
from limberlm.interventions.seats.activations import ActivationPenalty, ActivationSettings
from limberlm.interventions.seats.reference import START, Reference
from limberlm.interventions.seats.sampling import some_sequences
from limberlm.interventions.seats.tokens import Batch
from limberlm.interventions.settings import InterventionSettings


class AnchorSettings(ActivationSettings):
    """Settings of `FeatureAnchor`."""

    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {"reference": (START,)}

    reference: str = Field(START, description="`start`, the stage's own; or the model, path or hub id, to be held to")
    rows: float = Field(
        0.25, gt=0, le=1, description="share of the sequences that the reference reads; the gradient is raised for it"
    )


class FeatureAnchor(ActivationPenalty):
    """Holds hidden states to a reference: lambda * mean 2 (1 - cos(x_t, x_t of the reference)) at the sites.

    For any TRL trainer: `callbacks=[FeatureAnchor(weight=1.0)]`. The reference is the model that the stage started
    from, unless another one is given. It reads one in four of the sequences (`rows`), and only up to the deepest site;
    the gradient is raised so that its mean over the draws is that of the whole micro-batch.

    Logged: `limber/anchor`, the mean of 2 (1 - cos) over the tokens read, in [0, 4]; `limber/anchor_share`, the norm of
    what is added over that of the task's gradient, at the sites; `limber/anchor_skipped`, the share of micro-batches
    with too few tokens.

    Args:
        reference: `start`, a path or hub id, or a model in memory of the same sizes; it is not changed.
        **settings: of `AnchorSettings`.

    Raises:
        UserError: a setting is wrong; when training begins: the model lacks a site, or the reference does not fit.

    >>> FeatureAnchor(weight=-1)
    Traceback (most recent call last):
    limberlm.errors.UserError: anchor: weight: ...
    """

    name: ClassVar[str] = "anchor"
    Settings: ClassVar[type[InterventionSettings]] = AnchorSettings
    default_weight: ClassVar[float] = 1.0
    fewest: ClassVar[int] = 1

    def __init__(self, *, reference: str | Path | PreTrainedModel = START, **settings: Any) -> None:
        named = {"reference": str(reference)} if isinstance(reference, str | Path) else {}
        super().__init__(**settings, **named)
        self._given = reference
        self._reference: Reference | None = None
        self._states: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Take the start, or load the reference."""
        self._reference = Reference.of(self._given, model, args, state, self.name)

    def prepare(self, batch: Batch, model: nn.Module) -> Batch | None:
        """Read the reference on some of the sequences."""
        some = some_sequences(batch, self.settings.rows)
        self._states = {} if some is None else cast(Reference, self._reference).states(some, self.sites)
        return some

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R and dR/dstates [n, d] of states [n, d], against the reference's on the same tokens."""
        return anchored(states, self._states[site])

    def detach(self) -> None:
        """Remove every hook, and let go of the reference."""
        super().detach()
        self._states, self._reference = {}, None
