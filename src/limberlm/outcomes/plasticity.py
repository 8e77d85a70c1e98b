"""Plasticity: how fast a checkpoint learns a task that no stage ever showed it.

A fresh adapter, the same at every checkpoint, is trained on the future task for a fixed number of steps with a fixed
batch order, and the held-out loss is read on a fixed grid (our choice of protocol).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.outcomes.encoding import collate, encode_sample
from limberlm.outcomes.retention import context_limit
from limberlm.outcomes.scoring import answer_losses, exact_answers, pad_id, token_losses
from limberlm.outcomes.table import outcome_row
from limberlm.testbed import SKILLS


class PlasticitySettings(BaseModel):
    """The budget of the plasticity probe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = "codebook"
    steps: int = Field(30, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    every: int = Field(5, ge=1, description="steps between readings of the held-out loss")
    items: int = Field(64, ge=2, description="held-out items")
    seed: int = 0


def aulc(steps: Sequence[int], losses: Sequence[float]) -> float:
    """Area under the loss curve per step, in the loss's unit.

    The mean of the readings after step 0 on an even grid; trapezoids over the whole grid, divided by its length, on
    an uneven one.

    >>> aulc([0, 2, 4], [3.0, 2.0, 1.0]), aulc([0, 2, 3], [3.0, 2.0, 2.0])
    (1.5, 2.3333333333333335)
    """
    grid, curve = np.asarray(steps), np.asarray(losses, dtype=np.float64)
    if len(set(np.diff(grid))) == 1:
        return float(curve[1:].mean())
    return float(np.trapezoid(curve, grid) / (grid[-1] - grid[0]))


def plasticity_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: LoraConfig,
    settings: PlasticitySettings,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> list[dict[str, Any]]:
    """Teach `model` the future task and say how it went; its weights are as before afterwards.

    Returns rows `future_loss` (held-out nats per token at each step of the grid, step 0 included), `aulc`,
    `loss_before`, `loss_after`, `score_before` and `future_score` (share of exact answers).
    """
    task = SKILLS[settings.task]
    train = task.samples("train", settings.steps * settings.batch_size, settings.seed)
    held_out = task.samples("in_domain", settings.items)
    limit, pad = context_limit(model), pad_id(tokenizer)
    examples, scored = (
        [encode_sample(tokenizer, s.prompt, s.answer, limit) for s in part] for part in (train, held_out)
    )
    grid = sorted({*range(0, settings.steps, settings.every), settings.steps})
    score_before = exact_answers(model, tokenizer, task, held_out)
    curve: dict[int, torch.Tensor] = {}
    with fresh_adapter(model, adapter, settings.seed) as student:
        trainable = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
        for step in range(settings.steps + 1):
            if step in grid:
                curve[step] = answer_losses(student, scored, pad)
            if step == settings.steps:
                break
            batch = collate(examples[step * settings.batch_size : (step + 1) * settings.batch_size], pad)
            losses, tokens = token_losses(student, batch)
            optimizer.zero_grad()
            (losses.sum() / tokens.sum()).backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            progress(step + 1, settings.steps)
        score_after = exact_answers(student, tokenizer, task, held_out)
    return _rows(settings.task, grid, curve, score_before, score_after)


@contextmanager
def fresh_adapter(model: PreTrainedModel, adapter: LoraConfig, seed: int) -> Iterator[Any]:
    """The model wearing a new adapter without dropout, drawn from `seed`; taken off again at the end."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapter = copy.deepcopy(adapter)  # PEFT writes into it
    adapter.lora_dropout = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = get_peft_model(model, adapter)
    try:
        yield student.eval()
    finally:
        student.unload()
        for module, training in modes:
            module.training = training
        for parameter, trained in flags:
            parameter.requires_grad_(trained)


def _rows(
    task: str, grid: list[int], curve: dict[int, torch.Tensor], before: list[bool], after: list[bool]
) -> list[dict[str, Any]]:
    per_item = {step: (losses[:, 0] / losses[:, 1]).tolist() for step, losses in curve.items()}
    tokens = curve[0][:, 1].tolist()
    areas = [aulc(grid, [per_item[step][item] for step in grid]) for item in range(len(tokens))]
    return [
        *(outcome_row("future_loss", task, per_item[step], weights=tokens, step=step) for step in grid),
        outcome_row("aulc", task, areas, weights=tokens),
        outcome_row("loss_before", task, per_item[grid[0]], weights=tokens),
        outcome_row("loss_after", task, per_item[grid[-1]], weights=tokens),
        outcome_row("score_before", task, [float(right) for right in before], kind="share"),
        outcome_row("future_score", task, [float(right) for right in after], kind="share"),
    ]
