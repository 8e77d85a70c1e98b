"""Questions and answers as padded token batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.observe.probe.chat import rendered

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


def context_limit(model: PreTrainedModel) -> int:
    """The longest sequence scored: the model's context, at most 1024 tokens as in TRL's trainers."""
    return min(1024, int(getattr(model.config, "max_position_embeddings", 1024)))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end token where there is none: padding is masked everywhere."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Any) -> list[int]:
    """A question up to where the answer starts: chat messages through the template, text as it is."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    text = rendered(prompt, str(tokenizer.name_or_path), tokenizer, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_answered(tokenizer: PreTrainedTokenizerBase, prompt: Any, answer: Any, limit: int) -> Example:
    """A question with its answer, the question as context, cut to `limit` tokens as TRL's trainers do.

    The answer starts where the question alone and the two together part: tokens may merge across the boundary.
    """
    question = encode_prompt(tokenizer, prompt)
    if isinstance(prompt, str):
        whole = list(tokenizer(prompt + answer)["input_ids"])
        whole += [tokenizer.eos_token_id] if whole[-1:] != [tokenizer.eos_token_id] else []
    else:
        text = rendered([*prompt, *answer], str(tokenizer.name_or_path), tokenizer)
        whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    context = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(question, whole, strict=False)))
    return Example(tuple(whole[:limit]), min(context, limit))


def encode_sample(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, limit: int) -> Example:
    """A testbed question with an answer: as chat where the tokenizer has a template, else on two lines."""
    question, reply = as_turns(tokenizer, "user", prompt), as_turns(tokenizer, "assistant", answer)
    return encode_answered(tokenizer, question, reply, limit)


def as_turns(tokenizer: PreTrainedTokenizerBase, role: str, text: str) -> Any:
    """One chat message where the tokenizer has a template, else plain text, a question ending its line."""
    if tokenizer.chat_template:
        return [{"role": role, "content": text}]
    return text + "\n" if role == "user" else text


def encode_row(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], limit: int) -> Example:
    """A training row (TRL's columns) as an example; a preference row through its chosen answer.

    A row without a question is scored whole, but for its first token.
    """
    if "prompt" in row:
        return encode_answered(tokenizer, row["prompt"], row.get("completion", row.get("chosen")), limit)
    whole: Any = row.get("text", row.get("messages", row.get("chosen")))
    if isinstance(whole, list) and len(whole) > 1:
        return encode_answered(tokenizer, whole[:-1], whole[-1:], limit)
    text = whole if isinstance(whole, str) else rendered(whole, str(tokenizer.name_or_path), tokenizer)
    return Example(tuple(tokenizer(text, add_special_tokens=whole is text)["input_ids"][:limit]), 1)


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


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Prompts [batch, length] that an answer can follow, and their attention mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
