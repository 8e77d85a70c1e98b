"""How good a checkpoint is at every task, and what a chain's later stages do to what its earlier ones taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limberlm.errors import UserError
from limberlm.outcomes.encoding import Example, context_limit, encode_row, pad_id
from limberlm.outcomes.samples import draw_samples, find_skill
from limberlm.outcomes.scoring import Asked, answer_losses, sample_losses
from limberlm.outcomes.table import Row, outcome_row
from limberlm.testbed import Sample
from limberlm.testbed.prose import passages
from limberlm.testbed.skill import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def skill_outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    items: int,
    split: Split = "in_domain",
    asked: Asked | None = None,
) -> list[Row]:
    """`accuracy` on a split of each skill; `pair_accuracy` for preferences.

    Pair accuracy counts pairs whose chosen answer has the higher log-likelihood, summed over its tokens as DPO sums it.
    Chat-formatted where the tokenizer has a template. Answers that `asked` holds of this model are not generated again.
    """
    asked = asked or Asked(model, tokenizer)
    rows = []
    for name in skills:
        skill, samples = find_skill(name), draw_samples(name, split, items)
        if skill.kind == "dpo":
            right = _pairs_right(model, tokenizer, samples)
            rows.append(outcome_row("pair_accuracy", name, right, kind="share", split=split))
        else:
            texts = asked.answers(name, split, items)
            right = [float(skill.verify(*pair)) for pair in zip(samples, texts, strict=True)]
            rows.append(outcome_row("accuracy", name, right, kind="share", split=split))
    return rows


def loss_outcome(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: str, rows: Sequence[dict[str, Any]]
) -> Row:
    """`loss`: mean answer loss, nats per scored token, on held-out rows of a stage's own data.

    Rows whose answer lies wholly beyond the model's context are left out.

    Raises:
        UserError: that is every row.

    """
    limit = context_limit(model)
    examples = [encode_row(tokenizer, row, limit) for row in rows]
    return loss_row(model, tokenizer, task, examples)


def prose_outcome(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: int) -> Row:
    """`loss` on held-out prose, nats per token: what a chain does to plain language modelling."""
    limit = context_limit(model)
    texts = passages("in_domain", items)
    return loss_row(model, tokenizer, "prose", [Example(tuple(tokenizer(t)["input_ids"][:limit]), 1) for t in texts])


def loss_row(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    examples: Sequence[Example],
    split: Split = "in_domain",
) -> Row:
    """`loss`: mean loss of encoded examples, nats per scored token; examples without scored tokens are left out.

    Raises:
        UserError: that is every example.

    """
    scored = [example for example in examples if len(example.ids) > example.context]
    if not scored:
        raise UserError(f"{task}: every held-out answer lies beyond the model's context; use shorter rows")
    losses = answer_losses(model, scored, pad_id(tokenizer))
    return outcome_row("loss", task, (losses[:, 0] / losses[:, 1]).tolist(), split=split, weights=losses[:, 1].tolist())


def backward_transfer(
    scores: Sequence[Mapping[str, Sequence[float]]], tasks: Sequence[str | None]
) -> list[float] | None:
    """Per-item change, at the end of a path, of the tasks that its earlier stages taught.

    Args:
        scores: per-item scores of each checkpoint along the path, base first: task -> scores of the same items.
        tasks: the task each stage trained, None for none, in path order (`len(scores) - 1` of them).

    Returns:
        For every earlier stage's task the item scores now minus those right after that stage, pooled; their mean is
        the backward transfer BWT (Lopez-Paz and Ranzato, 2017). None where no earlier stage has a score.

    """
    now = scores[-1]
    changes: list[float] = []
    for index, task in enumerate(tasks[:-1]):
        then = scores[index + 1]
        if task is not None and task != tasks[-1] and task in now and task in then:
            changes += (np.asarray(now[task]) - np.asarray(then[task])).tolist()
    return changes or None


def _pairs_right(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> list[float]:
    chosen, rejected = (
        sample_losses(model, tokenizer, samples, answers)[:, 0]
        for answers in ([s.answer for s in samples], [str(s.rejected) for s in samples])
    )
    return (chosen < rejected).to(torch.float64).tolist()
