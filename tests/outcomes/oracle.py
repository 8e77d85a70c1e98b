"""Stand-ins for a model: one that knows the answers, and answer losses by hand in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limberlm.outcomes.encoding import Example, as_turns, encode_prompt
from limberlm.testbed import Sample


class Knows:
    """Generates a given answer for every question, whatever padding stands before it."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Any, answers: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.answers = {tuple(encode_prompt(tokenizer, as_turns(tokenizer, "user", q))): a for q, a in answers.items()}
        self.sizes: list[int] = []

    def generate(self, *, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int, **settings: Any) -> Tensor:
        assert (settings["do_sample"], settings["pad_token_id"]) == (False, self.tokenizer.pad_token_id)
        self.sizes.append(len(input_ids))
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            question = tuple(ids[mask.bool()].tolist())
            assert (ids[~mask.bool()] == self.tokenizer.pad_token_id).all()
            answer = [*self.tokenizer(self.answers[question])["input_ids"], self.tokenizer.eos_token_id]
            assert len(answer) <= max_new_tokens
            rows.append(ids.tolist() + answer + [self.tokenizer.pad_token_id] * (max_new_tokens - len(answer)))
        return torch.tensor(rows)


def answers(samples: Sequence[Sample]) -> dict[str, str]:
    return {sample.prompt: sample.answer for sample in samples}


def losses_by_hand(model: torch.nn.Module, examples: Sequence[Example]) -> list[tuple[float, int]]:
    """Cross-entropy of the answer tokens, summed, one unpadded example at a time, in float64."""
    exact = copy.deepcopy(model).double().eval()
    rows = []
    for example in examples:
        with torch.no_grad():
            logits = exact(torch.tensor([example.ids])).logits[0]
        assert logits.dtype == torch.float64
        total = 0.0
        places = range(max(1, example.context), len(example.ids))
        for place in places:
            before = logits[place - 1] - logits[place - 1].max()
            total -= float(before[example.ids[place]] - torch.log(torch.exp(before).sum()))
        rows.append((total, len(places)))
    return rows
