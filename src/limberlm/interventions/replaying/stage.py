"""Replay in a stage of a study: the stage keeps its steps and its tokens, and a share of its rows is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from limberlm.errors import UserError
from limberlm.interventions.context import Rows, StageContext
from limberlm.interventions.replaying.mix import Mix, mixed
from limberlm.interventions.replaying.pools import cut_rows, earlier_rows, generic_rows, own_rows
from limberlm.interventions.replaying.prepare import Pools, prepared
from limberlm.interventions.replaying.rendering import LONGEST, Renderer
from limberlm.interventions.replaying.rows import Form
from limberlm.interventions.replaying.sampling import sample_texts
from limberlm.interventions.replaying.settings import ReplaySettings, refusal


@dataclass(frozen=True)
class StageReplay:
    """The rows that a stage reads in one pass, and what they come to; no mixture where nothing is replayed."""

    rows: Rows
    mix: Mix | None

    @property
    def told(self) -> str:
        """What was done, in a line."""
        return "replay: no row, for there is no earlier stage or ratio is 0" if self.mix is None else str(self.mix)


def stage_rows(
    settings: ReplaySettings, context: StageContext, rows: Rows, *, reads: int, max_length: int | None = LONGEST
) -> StageReplay:
    """A stage's rows with a share of them replayed: as many as it reads, for one pass at its own steps.

    They have the tokens of as many of the stage's rows, as nearly as the pool's lengths allow; `mix` has both numbers.
    A trainer that shuffles reads all of them once, so that the share is exact over the stage; one that reads in order
    (KTO) has it at every step, within one row. The stage's seed decides the draw.

    Args:
        settings: the share and the pool.
        context: the stage.
        rows: the stage's own training rows.
        reads: how many rows it reads: `rows_read` of its trainer's configuration.
        max_length: the trainer's, in tokens.

    Returns:
        `rows` itself at ratio 0, and in a chain's first stage if earlier stages are replayed.

    Raises:
        UserError: as in `replay`.

    """
    if not settings.ratio or (settings.pool == "earlier_stages" and not context.earlier_rows()):
        return StageReplay(rows, None)
    problem = refusal(settings, context.trainer)
    if problem:
        raise UserError(f"replay: {problem}")
    render = Renderer(context.tokenizer, max_length)
    ready = prepared(rows, partial(_pools, settings, context, reads), render, [context.probe()])
    mix = mixed(
        ready.lengths,
        ready.pool_lengths,
        settings.ratio,
        seed=context.seed,
        by=settings.by,
        rows=reads,
        match_lengths=settings.match_lengths,
    )
    mix.tell()
    return StageReplay([dict(row) for row in ready.rows(mix)], mix)


def rows_read(trainer: str, config: Any, rows: int) -> int:
    """How many rows a stage reads, repeats included: its steps times the rows of each.

    Args:
        trainer: its name in a study file.
        config: its TRL configuration.
        rows: how many it has, which is what it reads in one epoch, and of packed rows.

    """
    if config.max_steps < 1 or getattr(config, "packing", False):
        return rows
    samples = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.max_steps
    if trainer != "grpo":
        return int(samples)
    # each batch of prompts is completed once, and trained on `num_iterations` times
    batches = -(-samples // (config.generation_batch_size * config.num_iterations))
    return int(batches * (config.generation_batch_size // config.num_generations))


def _pools(settings: ReplaySettings, context: StageContext, reads: int, form: Form, lengths: Sequence[int]) -> Pools:
    seed, size = context.seed, settings.rows
    if settings.pool == "generic":
        return [generic_rows(context.tokenizer, lengths, texts=context.texts(), rows=size, seed=seed)]
    if settings.pool == "earlier_stages":
        return earlier_rows(context.earlier_rows(), form.kind, rows=size, seed=seed)
    if settings.pool != "self":
        return own_rows(settings.pool)
    longest = max(lengths)
    drawn = sample_texts(
        stage_start(context),
        context.tokenizer,
        texts=max(1, min(size, round(settings.ratio * reads))),
        min_new_tokens=longest,
        max_new_tokens=longest,
        seed=seed,
    )
    return [cut_rows(drawn["input_ids"], lengths, seed=seed)]


def stage_start(context: StageContext) -> PreTrainedModel:
    """The model that a stage starts from, in float32: the base with what the stages before left merged in.

    Raises:
        UserError: one of them trained all weights.

    """
    if len(context.earlier) != len(context.earlier_rows()):
        raise UserError(
            "replay: pool: self samples from adapters, and an earlier stage trained all weights; use another"
        )
    from peft import PeftModel  # takes a second to import

    model: Any = AutoModelForCausalLM.from_pretrained(context.base, dtype=torch.float32)
    adapters = context.earlier[-1:] if context.hand_over == "continue" else context.earlier
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    start: PreTrainedModel = model.eval()
    return start
