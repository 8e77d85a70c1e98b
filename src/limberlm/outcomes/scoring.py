"""Per-item scores of a checkpoint: answer log-likelihood, and exact answers by greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from limberlm.outcomes.encoding import (
    IGNORED,
    Batch,
    Example,
    as_turns,
    batches,
    context_limit,
    encode_prompt,
    encode_sample,
    left_padded,
    pad_id,
)
from limberlm.outcomes.samples import draw_samples
from limberlm.testbed import Sample, Skill
from limberlm.testbed.skill import Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def next_logits(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [batch, length - 1, V] before every token but the first, and its label. Differentiable."""
    device = model.device
    logits: Tensor = model(
        input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
    ).logits
    return logits[:, :-1], batch.labels[:, 1:].to(device)


def label_losses(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss in nats of every label, 0 where there is none, and whether there is one, [batch, length - 1] each."""
    logits, labels = next_logits(model, batch)
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
    )
    return losses, labels != IGNORED


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed answer loss in nats and number of scored tokens, [batch] each. Differentiable."""
    losses, scored = label_losses(model, batch)
    return losses.sum(1), scored.sum(1)


@torch.no_grad()
def answer_losses(model: PreTrainedModel, examples: Sequence[Example], pad: int, size: int = 32) -> Tensor:
    """[examples, 2] float64: each example's summed answer loss in nats, and its number of scored tokens."""
    parts = [torch.stack(token_losses(model, batch), dim=1).double() for batch in batches(examples, size, pad)]
    return torch.cat(parts).cpu()


def sample_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample], answers: Sequence[str]
) -> Tensor:
    """`answer_losses` of one answer to each sample's question."""
    pairs, limit = zip(samples, answers, strict=True), context_limit(model)
    examples = [encode_sample(tokenizer, sample.prompt, answer, limit) for sample, answer in pairs]
    return answer_losses(model, examples, pad_id(tokenizer))


@torch.no_grad()
def greedy_answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, samples: Sequence[Sample]) -> list[str]:
    """The greedy answer to each sample's question, special tokens left out.

    An answer ends at the end token, or 8 tokens beyond the longest right answer of the samples.
    """
    prompts = [encode_prompt(tokenizer, as_turns(tokenizer, "user", s.prompt)) for s in samples]
    room = max(len(tokenizer(s.answer)["input_ids"]) for s in samples) + 8
    pad = pad_id(tokenizer)
    texts: list[str] = []
    for start in range(0, len(samples), 64):
        ids, mask = (part.to(model.device) for part in left_padded(prompts[start : start + 64], pad))
        out = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, use_cache=True, do_sample=False, max_new_tokens=room, pad_token_id=pad
        )
        texts += tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return texts


def exact_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, skill: Skill, samples: Sequence[Sample]
) -> list[bool]:
    """Whether the greedy answer to each sample is right, by the skill's verifier."""
    texts = greedy_answers(model, tokenizer, samples)
    return [skill.verify(sample, text) for sample, text in zip(samples, texts, strict=True)]


@dataclass
class Asked:
    """The greedy answers of one checkpoint, each generated once, however many outcomes read it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    known: dict[tuple[str, Split, int], list[str]] = field(default_factory=dict)

    def answers(self, name: str, split: Split, items: int) -> list[str]:
        """The answers to the first `items` questions of a skill's split."""
        key = name, split, items
        if key not in self.known:
            self.known[key] = greedy_answers(self.model, self.tokenizer, draw_samples(name, split, items))
        return self.known[key]
