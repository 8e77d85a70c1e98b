"""`EntropyPreservation`: supervised fine-tuning that leaves the next-token distribution broad (GEM's linear form)."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from limberlm.errors import UserError
from limberlm.interventions.rivals.kl_to_base import trained_head
from limberlm.interventions.rivals.logit_terms import entropy_term, through_head
from limberlm.interventions.seats.activations import ActivationPenalty, ActivationSettings
from limberlm.interventions.seats.tokens import Batch, choose
from limberlm.interventions.settings import InterventionSettings


class EntropySettings(ActivationSettings):
    """Settings of `EntropyPreservation`."""

    weight: float | None = Field(None, ge=0, description="1, the default, is GEM; 0 does nothing")
    share: None = Field(None, description="not to be set: the size follows from the trainer's own loss")
    sites: tuple[Literal["final_norm"]] = Field(("final_norm",), description="where the distribution is made; no other")
    tokens: Literal["completion"] = Field("completion", description="those that the loss counts; no others")
    per_sequence: int | None = Field(
        None,
        ge=1,
        description="at most so many tokens of each sequence, raised for the others; null, the default, for all",
    )
    temperature: float = Field(0.7, gt=0, lt=1, description="b of b CE(z/b); the nearer to 0, the broader")


class EntropyPreservation(ActivationPenalty):
    """Turns the cross-entropy of supervised fine-tuning into GEM's linear form, b CE(z/b).

    For `SFTTrainer`: `callbacks=[EntropyPreservation()]`. Each token's gradient at the logits becomes q - e_y with
    q = softmax(z/b) in place of p - e_y, so the push towards a label ends before all probability is on it. Equally, it
    is a reward (1 - b) for the Renyi entropy of order 1/b. What is added, q - p, goes through the head to the final
    norm, a few tokens at a time, over the trainer's own number of items; a head that is trained itself is not moved.

    Logged: `limber/entropy`, the mean of -(1 - b) H over the tokens, in nats; `limber/entropy_share`, the norm of what
    is added over that of the task's gradient, at the final norm; `limber/entropy_skipped`, the share of micro-batches
    with too few tokens.

    Args:
        **settings: of `EntropySettings`.

    Raises:
        UserError: a setting is wrong; when training begins: another trainer than SFT, or the head is not one.

    Source: arXiv 2408.16673; the seat at the final norm is our choice.

    >>> EntropyPreservation(temperature=1.5)
    Traceback (most recent call last):
    limberlm.errors.UserError: entropy: temperature: ...
    """

    name: ClassVar[str] = "entropy"
    Settings: ClassVar[type[InterventionSettings]] = EntropySettings
    trainers: ClassVar[tuple[str, ...]] = ("sft",)
    default_weight: ClassVar[float] = 1.0
    predicting: ClassVar[bool] = True
    fewest: ClassVar[int] = 1

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Find the head; refuse a loss that is not the cross-entropy."""
        for setting, plain in (("loss_type", "nll"), ("label_smoothing_factor", 0.0)):
            if (given := getattr(args, setting, plain)) != plain:
                raise UserError(f"{self.name}: {setting}: {given}: GEM's form is that of the cross-entropy; remove it")
        self._head = trained_head(model, self.name)
        self._averaged = bool(args.average_tokens_across_devices)

    def prepare(self, batch: Batch, model: nn.Module) -> Batch | None:
        """Weigh the tokens as the trainer's loss does."""
        if batch.inputs.get("labels") is None:
            raise UserError(
                f"{self.name}: the trainer's loss is computed outside the model; leave compute_loss_func out"
            )
        every, sequences = choose(batch.inputs, "completion", None, 0, predicting=True)
        self._stands_for = _stands_for(batch.sequences, sequences, self.settings.per_sequence)
        items = _trainers_items()
        if items is None:  # the mean of each micro-batch, over which the trainer takes the mean
            return replace(batch, scale=float(self._stands_for.sum()) / len(every))
        processes = self._world if self._averaged else 1
        return replace(batch, scale=float(self._stands_for.sum() * self._window * processes / items))

    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R and dR/dstates [n, d] of final states [n, d]: a mean, in which each token counts for those unread too."""
        temperature = self.settings.temperature
        values, gradients = through_head(self._head, states, lambda logits, part: entropy_term(logits, temperature))
        shares = (self._stands_for / self._stands_for.sum()).to(values.dtype)
        return values @ shares, gradients * shares[:, None]


def _stands_for(chosen: Tensor, every: Tensor, most: int | None) -> Tensor:
    """For how many tokens of its sequence each of the chosen ones [n] stands: every so-manieth one was chosen."""
    if most is None:
        return torch.ones(len(chosen), device=chosen.device)
    counts = every.unique_consecutive(return_counts=True)[1]
    place = chosen.unique_consecutive(return_inverse=True)[1]
    strides: Tensor = (counts + most - 1) // most
    return strides[place].float()


def _trainers_items() -> Tensor | int | None:
    """By what the trainer that is computing a loss divides it, found in its frame; None for the micro-batch's own mean.

    It counts the tokens of the micro-batches still to come and of the other processes, and TRL gives it neither to the
    model nor to callbacks.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if "num_items_in_batch" in frame.f_code.co_varnames:
            return cast("Tensor | int | None", frame.f_locals["num_items_in_batch"])
        frame = cast(Any, frame.f_back)
    return None
