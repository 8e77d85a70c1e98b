"""`KLToBase`: next-token distributions that stay near those that the stage began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel

from limberlm.interventions.rivals.logit_terms import forward_kl, reverse_kl, through_head
from limberlm.interventions.seats.activations import ActivationPenalty, ActivationSettings
from limberlm.interventions.seats.reference import START, Reference
from limberlm.interventions.seats.sampling import some_sequences
from limberlm.interventions.seats.tokens import Batch
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.model.head import Head, locate_head
from limberlm.observe.model.sites import locate

_log = logging.getLogger(__name__)


class KLSettings(ActivationSettings):
    """Settings of `KLToBase`."""

    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {"reference": (START,)}

    sites: tuple[Literal["final_norm"]] = Field(("final_norm",), description="where the distribution is made; no other")
    direction: Literal["forward", "reverse"] = Field(
        "forward", description="KL(reference || model), which covers, or KL(model || reference), which seeks modes"
    )
    reference: str = Field(START, description="`start`, the stage's own; or the model, path or hub id, to be held to")
    rows: float = Field(
        0.25, gt=0, le=1, description="share of the sequences that the reference reads; the gradient is raised for it"
    )


class KLToBase(ActivationPenalty):
    """Adds lambda * mean_t KL between the model's next-token distributions and a reference's.

    For any TRL trainer: `callbacks=[KLToBase(weight=0.1)]`. The reference is the model that the stage started from,
    unless another one is given; it reads one in four of the sequences (`rows`), and at most `per_sequence` of the
    tokens that others are predicted from. Logits are made for a few of these at a time. The gradient enters at the
    final norm: a head that is trained itself is not moved by it.

    Logged: `limber/kl_to_base`, the mean in nats; `limber/kl_to_base_share`, the norm of what is added over that of
    the task's gradient, at the final norm; `limber/kl_to_base_skipped`, the share of micro-batches with too few tokens.

    Args:
        reference: `start`, a path or hub id, or a model in memory of the same sizes; it is not changed.
        **settings: of `KLSettings`.

    Raises:
        UserError: a setting is wrong; when training begins: the reference does not fit, or a head is not one.

    >>> KLToBase(direction="sideways")
    Traceback (most recent call last):
    limberlm.errors.UserError: kl_to_base: direction: ...
    """

    name: ClassVar[str] = "kl_to_base"
    Settings: ClassVar[type[InterventionSettings]] = KLSettings
    default_weight: ClassVar[float] = 0.1
    predicting: ClassVar[bool] = True
    fewest: ClassVar[int] = 1

    def __init__(self, *, reference: str | Path | PreTrainedModel = START, **settings: Any) -> None:
        named = {"reference": str(reference)} if isinstance(reference, str | Path) else {}
        super().__init__(**settings, **named)
        self._given = reference
        self._reference: Reference | None = None
        self._states: dict[str, Tensor] = {}

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Take the start, or load the reference, and find the heads."""
        self._reference = found = Reference.of(self._given, model, args, state, self.name)
        self._head = trained_head(model, self.name)
        self._then = self._head if found.start is not None else locate_head(found.model, found.sites)
        self._moves = any(parameter.requires_grad for parameter in self._then.unembedding.parameters())

    def prepare(self, batch: Batch, model: nn.Module) -> Batch | None:
        """Read the reference on some of the sequences."""
        some = some_sequences(batch, self.settings.rows)
        self._states = {} if some is None else cast(Reference, self._reference).states(some, self.sites)
        return some

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R and dR/dstates [n, d] of final states [n, d], against the reference's on the same tokens."""
        divergence = forward_kl if self.settings.direction == "forward" else reverse_kl
        before = self._states[site]
        values, gradients = through_head(
            self._head, states, lambda logits, part: divergence(logits, self._logits(before[part]))
        )
        return values.mean(), gradients / len(states)

    def detach(self) -> None:
        """Remove every hook, and let go of the reference."""
        super().detach()
        self._states, self._reference = {}, None

    def _logits(self, states: Tensor) -> Tensor:
        """The reference's logits [t, V] of its states [t, d]."""
        with cast(Reference, self._reference).in_place() if self._moves else nullcontext(), torch.no_grad():
            return self._then.logits(states)


def trained_head(model: nn.Module, name: str) -> Head:
    """The head of the model that is trained; one line in the log if it is itself trained.

    Raises:
        UserError: the model has none that is a scaled or soft-capped product.

    """
    head = locate_head(model, locate(model))
    if any(parameter.requires_grad for parameter in head.unembedding.parameters()):
        _log.warning(
            "%s: the head is trained, and its own weights do not feel the penalty; what is below it does", name
        )
    return head
