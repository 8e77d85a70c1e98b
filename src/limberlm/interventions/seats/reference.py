"""The model that a stage is held to: what it says of some of a micro-batch's sequences, at the least cost.

A reference pass costs a forward, so it is made for a share of the sequences, as deep as the deepest site that is read,
and without a head. The penalty's gradient is raised by what went unread: its mean over the draws is the whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.interventions.context import StageContext
from limberlm.interventions.seats.sampling import inputs_of
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import Batch
from limberlm.observe.model.loading import load_model
from limberlm.observe.model.sites import Sites, locate, unwrapped
from limberlm.observe.names import FINAL_NORM

START = "start"
"""The reference that is the stage's own start."""

BASE = "base"
"""In a study, the reference that is the chain's base."""

BESIDE_TEXT = ("pixel_values", "pixel_values_videos", "input_features")
"""What the forward of a model that sees or hears is given."""


@dataclass(frozen=True)
class Reference:
    """A frozen model, or the trained one with the parameters that it started from.

    Attributes:
        model: the one whose forward runs.
        sites: its parts.
        start: the start values of its parameters; None for a model that is not trained.

    """

    model: nn.Module
    sites: Sites
    start: StartParameters | None

    @classmethod
    def of(cls, given: str | Path | PreTrainedModel, model: nn.Module, args: Any, state: Any, name: str) -> Reference:
        """The reference that `given` names: `start`, a path or hub id, or a model in memory.

        Raises:
            UserError: it cannot be loaded, is the trained model itself, or has other sites.

        """
        if given == START:
            return cls(model, locate(model), StartParameters.of(model, args, state, name))
        policy = unwrapped(model)
        held: Any = given
        if isinstance(given, str | Path):
            held = load_model(given, dtype=policy.dtype, device=policy.device).requires_grad_(False)
        found, own = locate(held), locate(model)
        if unwrapped(held) is policy:
            raise UserError(
                f'{name}: reference: the model being trained; give reference="{START}" to hold it to its start'
            )
        for what, theirs, ours in (
            ("hidden states of", _width(found), _width(own)),
            ("blocks:", len(found.blocks), len(own.blocks)),
            ("a vocabulary of", _vocabulary(found), _vocabulary(own)),
        ):
            if theirs != ours:
                raise UserError(f"{name}: reference: {what} {theirs} where the trained model has {ours}; give its base")
        return cls(held, found, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, `model` is the reference: start values, evaluation mode, no gradients; all as before on leaving."""
        if self.start is not None:
            with self.start.swapped_in(self.model):
                yield
            return
        training = [module for module in self.model.modules() if module.training]
        try:
            self.model.eval()
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    def states(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """The reference's states [n, d] of the batch's tokens at each site; nothing above the deepest one is run.

        Raises:
            UserError: the model sees or hears, and only what it reads would be known here.

        """
        if beside := [name for name in BESIDE_TEXT if batch.inputs.get(name) is not None]:
            raise UserError(f"{beside[0]}: a reference reads text only; leave what holds to one out of this training")
        inputs, place = inputs_of(batch)
        with self.in_place(), self.sites.reading(names) as found, self._up_to(names):
            self.sites.forward(**inputs)
        return {name: states.flatten(0, 1)[place] for name, states in found.items()}

    @contextmanager
    def _up_to(self, names: Sequence[str]) -> Iterator[None]:
        """Inside, a forward ends where the deepest of the sites is known."""
        if FINAL_NORM in names:
            yield
            return
        deepest = max(int(name.removeprefix("block.")) for name in names)
        handle = self.sites.blocks[deepest].register_forward_hook(_stop)
        try:
            with suppress(_Enough):
                yield
        finally:
            handle.remove()


def in_study(settings: Any, context: StageContext) -> dict[str, Any]:
    """Settings with a `reference` as keyword arguments, `base` as the path of the chain's base."""
    reference = context.base if settings.reference == BASE else settings.reference
    return {**settings.model_dump(), "reference": reference}


class _Enough(Exception):
    """What was asked for has been read."""


def _stop(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    raise _Enough


def _width(sites: Sites) -> int:
    return int(sites.backbone.config.get_text_config().hidden_size)


def _vocabulary(sites: Sites) -> int:
    return int(sites.backbone.config.get_text_config().vocab_size)
