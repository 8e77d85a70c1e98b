"""Questions with answers as token ids, and the teacher-forced loss of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from limberlm.errors import UserError
from limberlm.interventions.seats.tokens import IGNORED
from limberlm.observe.model.sites import unwrapped
from limberlm.observe.probe.rows import token_ids

LONGEST = 1024
"""Tokens read of a row, as in TRL's trainers."""


@dataclass(frozen=True)
class Answer:
    """Token ids of a question and its answer; the first `question` of them are not scored."""

    ids: Sequence[int]
    question: int


def encode_answers(rows: Sequence[Mapping[str, Any]], tokenizer: Any, name: str) -> list[Answer]:
    """Rows with `prompt` and `completion` (or `chosen`), text or messages, as TRL's trainers encode them.

    A row with `text` is scored whole, but for its first token. Rows whose answer lies beyond 1024 tokens are left out.

    Args:
        rows: what is read.
        tokenizer: with a chat template, where rows are messages.
        name: of who asks, for errors.

    Raises:
        UserError: names the row that cannot be read; or no answer is left to score.

    """
    found = [_encoded(row, f"{name}: rows row {number}", tokenizer) for number, row in enumerate(rows, start=1)]
    scored = [answer for answer in found if len(answer.ids) > max(answer.question, 1)]
    if not scored:
        raise UserError(f"{name}: rows: no answer to score; give rows with a prompt and a completion")
    return scored


def _encoded(row: Mapping[str, Any], origin: str, tokenizer: Any) -> Answer:
    prompt, reply = row.get("prompt"), row.get("completion", row.get("chosen"))
    if row.get("text") is not None or prompt is None or reply is None:
        return Answer(token_ids(row, origin, tokenizer)[:LONGEST], 1)
    whole = token_ids({"prompt": prompt, "completion": reply}, origin, tokenizer)
    if isinstance(prompt, str):
        question = list(tokenizer(prompt)["input_ids"])
        whole += [tokenizer.eos_token_id] if whole[-1:] != [tokenizer.eos_token_id] else []
    else:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        question = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    # tokens may merge across the boundary: the answer starts where the two part
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(question, whole, strict=False)))
    return Answer(whole[:LONGEST], shared)


@torch.no_grad()
def answer_loss(model: nn.Module, answers: Sequence[Answer], size: int) -> float:
    """Mean loss of the answers' tokens in nats, each token weighing alike; the model is read as it stands.

    Args:
        model: a trainer's, in evaluation mode.
        answers: what is read.
        size: answers in a batch.

    """
    plain: Any = unwrapped(model)
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, len(answers), size):
        ids, mask, labels = (part.to(plain.device) for part in _padded(answers[first : first + size]))
        # the class's own forward: a trainer replaces the model's
        logits = type(plain).forward(plain, input_ids=ids, attention_mask=mask, use_cache=False).logits
        losses = cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
        total += losses.double().sum().cpu()
    return float(total) / sum(len(answer.ids) - answer.question for answer in answers)


def _padded(answers: Sequence[Answer]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels [batch, length], right-padded with the last token, which the mask hides."""
    longest = max(len(answer.ids) for answer in answers)
    ids = torch.tensor([[*answer.ids, *[answer.ids[-1]] * (longest - len(answer.ids))] for answer in answers])
    place = torch.arange(longest)
    lengths = torch.tensor([[len(answer.ids)] for answer in answers])
    questions = torch.tensor([[answer.question] for answer in answers])
    scored = (place >= questions) & (place < lengths)
    return ids, (place < lengths).long(), ids.masked_fill(~scored, IGNORED)
