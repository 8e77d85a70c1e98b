"""The pretraining mix: windows of prose, and a thin share of windows packed with skill samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from limberlm.testbed import SKILLS, Sample
from limberlm.testbed.prose import documents


def chat_text(sample: Sample) -> str:
    """A sample as the text of a finished two-turn conversation."""
    return f"<|user|>{sample.prompt}<|end|><|assistant|>{sample.answer}<|end|>"


def tokenizer_texts(skills: Iterable[str], seed: int) -> Iterator[str]:
    """What the tokenizer is trained on: the prose, and two thousand samples of each skill of the mix."""
    yield from documents("train")
    for name in skills:
        yield from (f"{sample.prompt}\n{sample.answer}" for sample in islice(SKILLS[name].stream("train", seed), 2000))


def windows(tokenizer: PreTrainedTokenizerFast, count: int, length: int, mix: dict[str, float], seed: int) -> Tensor:
    """[count, length] int64 token windows in training order: `mix` gives each skill's share, prose has the rest."""
    rng = random.Random(f"corpus/{seed}")
    names = ["prose", *mix]
    kinds = rng.choices(names, [1 - sum(mix.values()), *mix.values()], k=count)
    prose = _prose_tokens(tokenizer)
    packed = {name: _packed_samples(tokenizer, name, length, seed) for name in mix}
    rows = [
        prose[(start := rng.randrange(len(prose) - length)) : start + length] if kind == "prose" else next(packed[kind])
        for kind in kinds
    ]
    return torch.tensor(rows, dtype=torch.int64)


def _prose_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    ids: list[int] = []
    for document in documents("train"):
        ids += [*tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
    return ids


def _packed_samples(tokenizer: PreTrainedTokenizerFast, name: str, length: int, seed: int) -> Iterator[list[int]]:
    ids: list[int] = []
    for sample in SKILLS[name].stream("train", seed):
        ids += tokenizer(chat_text(sample), add_special_tokens=False)["input_ids"]
        while len(ids) >= length:
            yield ids[:length]
            ids = ids[length:]
