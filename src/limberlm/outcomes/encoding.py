"""Questions and answers as padded token batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class Example:
    """Token ids, and how many of them, at the start, are context that is not scored."""

    ids: tuple[int, ...]
    context: int


@dataclass(frozen=True)
class Batch:
    """Right-padded examples: [batch, length] each; labels are -100 on context and padding."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> list[int]:
    """A question up to where the answer starts: chat messages through the template, text as it is."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_answered(tokenizer: PreTrainedTokenizerBase, prompt: Any, answer: Any, limit: int) -> Example:
    """A question with its answer, the question as context, cut to `limit` tokens as TRL's trainers do."""
    context = encode_prompt(tokenizer, prompt)
    if isinstance(prompt, str):
        whole = [*tokenizer(prompt + answer)["input_ids"], tokenizer.eos_token_id]
    else:
        text = tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Example(tuple(whole[:limit]), min(len(context), limit))


def encode_sample(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, limit: int
) -> Example:
    """A testbed question with an answer: as chat where the tokenizer has a template, else on two lines."""
    question, reply = as_turns(tokenizer, "user", prompt), as_turns(tokenizer, "assistant", answer)
    return encode_answered(tokenizer, question, reply, limit)


def as_turns(tokenizer: PreTrainedTokenizerBase, role: str, text: str) -> Any:
    """One chat message where the tokenizer has a template, else plain text, a question ending its line."""
    if tokenizer.chat_template:
        return [{"role": role, "content": text}]
    return text + "\n" if role == "user" else text


def encode_row(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], limit: int) -> Example:
    """A training row (TRL's columns) as an example; a preference row through its chosen answer."""
    if "prompt" in row:
        return encode_answered(tokenizer, row["prompt"], row.get("completion", row.get("chosen")), limit)
    if "text" in row:
        return Example(tuple(tokenizer(row["text"])["input_ids"][:limit]), 1)
    messages = row.get("messages", row.get("chosen"))
    return encode_answered(tokenizer, messages[:-1], messages[-1:], limit)


def batches(examples: Sequence[Example], size: int, pad: int) -> Iterable[Batch]:
    """Right-padded batches in the given order."""
    for start in range(0, len(examples), size):
        yield collate(examples[start : start + size], pad)


def collate(examples: Sequence[Example], pad: int) -> Batch:
    """One right-padded batch."""
    length = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), length), pad)
    labels = torch.full((len(examples), length), IGNORED)
    mask = torch.zeros((len(examples), length), dtype=torch.int64)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        labels[row, example.context : len(tokens)] = tokens[example.context :]
        mask[row, : len(tokens)] = 1
    return Batch(ids, mask, labels)
