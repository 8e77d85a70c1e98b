"""`KLToBase`: next-token distributions that stay near those that the stage began with."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from limberlm.interventions.rivals.logit_terms import forward_kl, reverse_kl, through_head
from limberlm.interventions.seats.held import HeldPenalty, HeldSettings
from limberlm.interventions.seats.reference import Reference
from limberlm.interventions.seats.tokens import Batch
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.model.head import Head, locate_head
from limberlm.observe.model.sites import locate

_log = logging.getLogger(__name__)


class KLSettings(HeldSettings):
    """Settings of `KLToBase`."""

    sites: tuple[Literal["final_norm"]] = Field(("final_norm",), description="where the distribution is made; no other")
    direction: Literal["forward", "reverse"] = Field(
        "forward", description="KL(reference || model), which covers, or KL(model || reference), which seeks modes"
    )
    rows: float = Field(
        1.0, gt=0, le=1, description="share of the sequences that the reference reads; the gradient is raised for it"
    )


class KLToBase(HeldPenalty):
    """Adds lambda * mean_t KL between the model's next-token distributions and a reference's.

    For any TRL trainer: `callbacks=[KLToBase(weight=0.1)]`. The reference is the model that the stage started from,
    unless another one is given; it reads all sequences (or a share, `rows`, which is cheaper and noisier), and at most
    `per_sequence` of the tokens that others are predicted from. Logits are made for a few of these at a time. The
    gradient enters at the final norm: a head that is trained itself is not moved by it.

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

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Take the start, or load the reference, and find the heads."""
        super().begin(model, args, state)
        found = cast(Reference, self.reference)
        self._head = trained_head(model, self.name)
        self._then = self._head if found.start is not None else locate_head(found.model, found.sites)
        self._moves = any(parameter.requires_grad for parameter in self._then.unembedding.parameters())

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R and dR/dstates [n, d] of final states [n, d], against the reference's on the same tokens."""
        divergence = forward_kl if self.settings.direction == "forward" else reverse_kl
        before = self.before[site]
        values, gradients = through_head(
            self._head, states, lambda logits, part: divergence(logits, self._logits(before[part]))
        )
        return values.mean(), gradients / len(states)

    def _logits(self, states: Tensor) -> Tensor:
        """The reference's logits [t, V] of its states [t, d]."""
        with cast(Reference, self.reference).in_place() if self._moves else nullcontext(), torch.no_grad():
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
