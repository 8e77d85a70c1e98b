"""Replay in a stage of a study: the stage keeps its steps and its tokens, and a share of its rows is replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from limberlm.errors import UserError
from limberlm.files import content_digest, known_digest
from limberlm.interventions.context import StageContext
from limberlm.interventions.replay.mix import Mix, mixed
from limberlm.interventions.replay.pools import cut_rows, earlier_rows, generic_rows, own_rows
from limberlm.interventions.replay.prepare import Pools, prepared
from limberlm.interventions.replay.rendering import LONGEST, Renderer
from limberlm.interventions.replay.rows import SERVES, TEXTS, Form, Row
from limberlm.interventions.replay.sampling import sample_texts
from limberlm.interventions.replay.settings import ReplaySettings

POOLS = ("generic", "earlier_stages", "self")


@dataclass(frozen=True)
class StageReplay:
    """The rows that a stage reads in one pass, and what they come to; no mixture where nothing is replayed."""

    rows: Sequence[Row]
    mix: Mix | None


def stage_rows(
    settings: ReplaySettings,
    context: StageContext,
    rows: Sequence[Row],
    *,
    reads: int,
    max_length: int | None = LONGEST,
    folder: Path = Path(),
    out: Path | None = None,
) -> StageReplay:
    """A stage's rows with a share of them replayed, as many as it reads, for one pass at its own steps.

    They have the tokens of `reads` of the stage's rows, as nearly as the pool's lengths allow; `mix` tells both. A
    trainer that shuffles reads all of them once and so the share is exact over the stage; one that reads in order (KTO)
    has it at every step, within one row.

    Args:
        settings: the share and the pool.
        context: the stage.
        rows: the stage's own training rows.
        reads: how many rows it reads: `rows_read` of its trainer's configuration.
        max_length: the trainer's, in tokens.
        folder: where a pool's relative path starts.
        out: the file in which a `self` pool's texts are kept, and gone on from.

    Returns:
        `rows` itself at ratio 0, and in a chain's first stage if earlier stages are replayed.

    Raises:
        UserError: as in `replay`.

    """
    nothing = settings.pool == "earlier_stages" and not context.earlier_rows()
    if not settings.ratio or nothing:
        return StageReplay(rows, None)
    problem = refusal(settings, context.trainer)
    if problem:
        raise UserError(f"replay: {problem}")
    render = Renderer(context.tokenizer, max_length)
    ready = prepared(rows, partial(_pools, settings, context, reads, folder, out), render, [context.probe()])
    mix = mixed(
        ready.lengths,
        ready.pool_lengths,
        settings.ratio,
        seed=context.seed,
        by=settings.by,
        rows=reads,
        match_lengths=settings.match_lengths,
    )
    return StageReplay(ready.rows(mix), mix)


def refusal(settings: ReplaySettings, trainer: str) -> str | None:
    """Why a trainer cannot be served, known before anything is trained; None if it can.

    >>> refusal(ReplaySettings(ratio=0.1, pool="generic"), "dpo")
    'pool: generic has texts, and the dpo trainer reads preference pairs; use earlier_stages or a file of such rows'
    """
    if settings.ratio and settings.pool in ("generic", "self") and SERVES[trainer] != TEXTS:
        return (
            f"pool: {settings.pool} has {TEXTS}, and the {trainer} trainer reads {SERVES[trainer]}; use earlier_stages "
            "or a file of such rows"
        )
    return None


def decided_by(settings: ReplaySettings, context: StageContext, folder: Path = Path()) -> str | None:
    """A digest of what decides the replayed rows beside the stage's own rows, seed and steps; None at ratio 0.

    The settings, and the pool's content: the texts, the earlier stages' rows, or the file. A `self` pool is decided by
    the stage's start, which is whatever decides the stages before.
    """
    if not settings.ratio:
        return None
    content: Any = None
    if settings.pool == "generic":
        content = list(context.texts())
    elif settings.pool == "earlier_stages":
        content = [[_plain(row) for row in stage] for stage in context.earlier_rows()]
    elif settings.pool not in POOLS:
        content = known_digest(_existing(folder / settings.pool))
    return content_digest([settings.model_dump(mode="json"), content])


def rows_read(trainer: str, config: Any, rows: int) -> int:
    """How many rows a stage reads, repetitions counted: its steps times the rows of each.

    Args:
        trainer: its name in a study file.
        config: its TRL configuration.
        rows: how many rows the stage has: what is read if the steps follow from the epochs, and what is packed.

    """
    if config.max_steps < 1 or getattr(config, "packing", False):
        return rows
    processes = getattr(config, "world_size", 1)
    samples = config.per_device_train_batch_size * config.gradient_accumulation_steps * processes * config.max_steps
    if trainer != "grpo":
        return int(samples)
    # each batch of prompts is completed once, and read in so many steps
    batches = -(-samples // (config.generation_batch_size * config.num_iterations))
    return int(batches * (config.generation_batch_size // config.num_generations))


def _pools(
    settings: ReplaySettings,
    context: StageContext,
    reads: int,
    folder: Path,
    out: Path | None,
    form: Form,
    lengths: Sequence[int],
) -> Pools:
    seed, size = context.seed, settings.rows
    if settings.pool == "generic":
        return [generic_rows(context.tokenizer, lengths, texts=context.texts(), rows=size, seed=seed)]
    if settings.pool == "earlier_stages":
        return earlier_rows(context.earlier_rows(), form.kind, rows=size, seed=seed)
    if settings.pool != "self":
        return own_rows(_existing(folder / settings.pool))
    longest = max(lengths)
    count = max(1, min(size, round(settings.ratio * reads)))
    texts = sample_texts(
        stage_start(context),
        context.tokenizer,
        texts=count,
        min_new_tokens=longest,
        max_new_tokens=longest,
        seed=seed,
        out=out,
    )
    return [cut_rows(texts["text"], context.tokenizer, lengths, seed=seed)]


def stage_start(context: StageContext) -> PreTrainedModel:
    """The model that a stage starts from, in float32: the base with what the stages before left merged in."""
    model: Any = AutoModelForCausalLM.from_pretrained(context.base, dtype=torch.float32)
    adapters = context.earlier[-1:] if context.hand_over == "continue" else context.earlier
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    start: PreTrainedModel = model.eval()
    return start


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"replay: pool {path}: no such file; give {', '.join(POOLS)}, or a JSONL or Parquet file")
    return path


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell for name, cell in row.items() if cell is not None}
