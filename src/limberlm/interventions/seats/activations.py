"""Recipe A: a penalty on activations, whose gradient enters the backward pass at the outputs of blocks.

The closed-form gradient is added in backward, not in the forward hook: it is computed once for each micro-batch
whatever the checkpointing mode, needs no graph of its own, and nothing is kept but the block's output. Reference
passes, generation and evaluation run without gradients, which is how they are told from training: `module.training` is
True in most of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.seats.callback import Intervention
from limberlm.interventions.seats.refusals import refuse_deepspeed
from limberlm.interventions.seats.tokens import Batch, Tokens, choose, draw
from limberlm.interventions.seats.window import window_length
from limberlm.interventions.settings import InterventionSettings
from limberlm.observe.model.sites import Sites, locate, unwrapped
from limberlm.observe.names import BAND, EMBED, FINAL_NORM, band_sites

FEWEST = 8
"""Tokens below which a micro-batch is passed over, and counted (our choice)."""


class ActivationSettings(InterventionSettings):
    """Settings that all penalties on activations share."""

    weight: float | None = Field(None, ge=0, description="of the penalty beside the trainer's own loss; 0 does nothing")
    share: float | None = Field(
        None, gt=0, le=1, description="in place of a weight: norm of what is added over that of the task's gradient"
    )
    sites: Literal["band"] | tuple[str, ...] = Field("band", description="`band`, or block.i and final_norm by name")
    tokens: Tokens = Field("completion", description="tokens with a label, or all but padding and repeated prompts")
    per_sequence: int | None = Field(64, ge=1, description="at most so many tokens of each sequence; null for all")

    @model_validator(mode="after")
    def _one_size(self) -> ActivationSettings:
        if self.weight is not None and self.share is not None:
            raise ValueError(f"weight: {self.weight:g} and share: {self.share:g}: give one of them")
        if not self.sites:
            raise ValueError("sites: empty; name at least one")
        return self


class ActivationPenalty(Intervention, ABC):
    """A penalty on the states of chosen tokens: lambda * mean over micro-batches, sites and processes of R.

    Attributes:
        weight: lambda; whoever drives it may change it between micro-batches.
        driven: whether somebody does, so that hooks are wanted although the weight is 0 now.
        predicting: whether R is about the states that tokens with a label are predicted from.
        fewest: tokens below which a micro-batch is passed over, and counted; 1 where R is a plain mean.

    """

    Settings: ClassVar[type[InterventionSettings]] = ActivationSettings
    default_weight: ClassVar[float] = 0.0
    predicting: ClassVar[bool] = False
    fewest: ClassVar[int] = FEWEST

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        given = self.settings.weight
        self.weight: float = self.default_weight if given is None and self.settings.share is None else given or 0.0
        self.driven = False
        self._batch: Batch | None = None
        self._armed, self._micro, self._scale, self._window = False, 0, 1.0, 1

    @abstractmethod
    def penalty(self, states: Tensor, batch: Batch, site: str) -> tuple[Tensor, Tensor]:
        """R [] and dR/dstates [n, d], in closed form, of the chosen tokens' states [n, d] in float32 (or float64)."""

    def begin(self, model: nn.Module, args: Any, state: Any) -> None:
        """Whatever must be ready before the first step."""

    def prepare(self, batch: Batch, model: nn.Module) -> Batch | None:
        """Look at a micro-batch before its forward, without gradients; None passes it over. The model is `begin`'s.

        What it returns is the batch that `penalty` sees: some of the tokens, say.
        """
        return batch

    @property
    def acts(self) -> bool:
        """Whether it could change anything."""
        return self.driven or self.weight > 0 or self.settings.share is not None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the hooks on the model."""
        super().on_train_begin(args, state, control, **kwargs)
        refuse_deepspeed(args, self.name)
        model = kwargs["model"]
        found = locate(model)
        self.sites = chosen_sites(self.settings.sites, found, self.name)
        if not self.acts:
            return
        self._seed, self._rank, self._world = int(args.seed), int(args.process_index), int(args.world_size)
        self.begin(model, args, state)
        whole = unwrapped(model)
        self._handles.append(whole.register_forward_pre_hook(partial(self._enter, model, state), with_kwargs=True))
        for site in self.sites:
            part = found.final_norm if site == FINAL_NORM else found.blocks[int(site.removeprefix("block."))]
            self._handles.append(part.register_forward_hook(partial(self._leave, site)))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Arm the hooks."""
        self._armed, self._micro, self._batch = True, 0, None
        self._finite: list[tuple[str, Tensor]] = []
        self._window = window_length(
            args.gradient_accumulation_steps, state.global_step, kwargs.get("train_dataloader")
        )
        scaler = getattr(kwargs.get("optimizer"), "scaler", None)
        self._scale = float(scaler.get_scale()) if scaler is not None else 1.0

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the micro-batch."""
        self._micro += 1

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Disarm the hooks; stop before a gradient that is not finite reaches the weights."""
        self._armed, self._batch = False, None
        finite, self._finite = self._finite, []
        if finite and not bool(torch.stack([each.to(finite[0][1].device) for _, each in finite]).all()):
            site = next(site for site, each in finite if not bool(each))
            raise NodeFailed(
                f"{self.name}: the penalty at {site} is not finite at step {state.global_step + 1}: lower its weight "
                "or the learning rate"
            )

    def detach(self) -> None:
        """Remove every hook from the model, and disarm."""
        super().detach()
        self._armed, self._batch = False, None

    def _enter(
        self, model: nn.Module, state: Any, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not (self._armed and module.training and torch.is_grad_enabled()):
            return  # and keep the batch: a reference pass may come between forward and backward
        inputs = {**kwargs, "input_ids": args[0]} if args else kwargs
        settings, step = self.settings, int(state.global_step)
        micro = self._micro * self._world + self._rank
        with torch.no_grad():
            index, sequences = choose(
                inputs,
                settings.tokens,
                settings.per_sequence,
                draw(self._seed, step, micro),
                predicting=self.predicting,
            )
            shape = _shape(inputs)
            batch = Batch(index, sequences, shape, inputs, step, micro, self._seed)
            too_few = len(index) < self.fewest
            self.note("_skipped", torch.tensor(float(too_few)))
            self._batch = None if too_few else self.prepare(batch, model)

    def _leave(self, site: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not (self._armed and module.training and torch.is_grad_enabled()) or self._batch is None:
            return output
        states, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        if tuple(states.shape[:2]) != self._batch.shape or not states.requires_grad:
            return output
        added = partial(self._added, self._batch, site)
        states = _AddGradient.apply(states, self._batch.index, added)  # type: ignore[no-untyped-call]
        return states if rest is None else (states, *rest)

    def _added(self, batch: Batch, site: str, states: Tensor, upstream: Tensor) -> Tensor | None:
        """What is added to the gradient of the chosen tokens' states [n, d]; None for nothing."""
        value, gradient = self.penalty(states, batch, site)
        size, whole = gradient.norm(), upstream.float().norm()
        self._finite.append((site, value.isfinite() & size.isfinite()))
        self.note("", value)
        if self.settings.share is not None:
            factor = torch.where(size > 0, self.settings.share * whole / size, 0.0)
        elif self.weight == 0:
            return None
        else:
            factor = torch.as_tensor(self.weight * self._scale * batch.scale / (self._window * len(self.sites)))
        self.note("_share", torch.where(whole > 0, factor * size / whole, 0.0))
        return factor * gradient


class _AddGradient(torch.autograd.Function):
    """The identity forward; backward adds a gradient at the chosen tokens."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, index: Tensor, added: Callable[[Tensor, Tensor], Tensor | None]) -> Tensor:
        ctx.save_for_backward(states)
        ctx.index, ctx.added = index, added
        return states.view_as(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (states,) = ctx.saved_tensors
        with torch.autocast(states.device.type, enabled=False):
            read = states.flatten(0, 1).index_select(0, ctx.index)
            extra = ctx.added(read if read.dtype == torch.float64 else read.float(), upstream)
        if extra is None:
            return upstream, None, None
        # not in place: the residual stream's gradient may be shared with another branch
        total = upstream.flatten(0, 1).index_add(0, ctx.index, extra.to(upstream.dtype))
        return total.view_as(upstream), None, None


def chosen_sites(sites: str | Sequence[str], model: Sites, name: str) -> list[str]:
    """The sites by name.

    Raises:
        UserError: one that the model lacks, or where no penalty can sit.

    """
    total = len(model.blocks)
    if sites == BAND:
        return band_sites(total)
    there = [f"block.{i}" for i in range(total)]
    for site in sites:
        if site not in (*there, FINAL_NORM):
            why = "is the input, which no block computed" if site == EMBED else "is none of this model's"
            raise UserError(f"{name}: sites: {site} {why}; there are {there[0]} to {there[-1]}, and {FINAL_NORM}")
    return list(dict.fromkeys(sites))


def _shape(inputs: Any) -> tuple[int, int]:
    given = inputs.get("input_ids")
    given = inputs["inputs_embeds"] if given is None else given
    return int(given.shape[0]), int(given.shape[1])
