"""Per-item scores of a checkpoint: answer log-likelihood, and exact answers by greedy generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limberlm.outcomes.encoding import Batch, Example, as_turns, batches, encode_prompt
from limberlm.testbed import SKILLS, Sample, Skill
from limberlm.testbed.skill import Split


def token_losses(model: PreTrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed answer loss in nats and number of scored tokens, [batch] each. Differentiable."""
    device = model.device
    logits = model(
        input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
    ).logits
    labels = batch.labels[:, 1:].to(device)
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels, reduction="none", ignore_index=-100
    )
    return losses.sum(1), (labels != -100).sum(1)


@torch.no_grad()
def answer_losses(model: PreTrainedModel, examples: Sequence[Example], pad: int, size: int = 32) -> Tensor:
    """[examples, 2] float64: each example's summed answer loss in nats, and its number of scored tokens."""
    parts = [torch.stack(token_losses(model, batch), dim=1).double() for batch in batches(examples, size, pad)]
    return torch.cat(parts).cpu()


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
        part = prompts[start : start + 64]
        width = max(map(len, part))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in part], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=model.device)
        out = model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, use_cache=True, do_sample=False, max_new_tokens=room, pad_token_id=pad
        )
        texts += tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
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
            samples = SKILLS[name].samples(split, items)
            self.known[key] = greedy_answers(self.model, self.tokenizer, samples)
        return self.known[key]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The padding token, or the end token where there is none: padding is masked everywhere."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found)
