"""The pretraining mix: windows of prose, each read a known number of times, and a thin share of skill samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerFast

from limberlm.testbed import SKILLS, Sample
from limberlm.testbed.prose import documents


def chat_text(sample: Sample) -> str:
    """A sample as the text of a finished two-turn conversation."""
    return f"<|user|>{sample.prompt}<|end|><|assistant|>{sample.answer}<|end|>"


def tokenizer_texts(skills: Iterable[str]) -> Iterator[str]:
    """What the tokenizer is trained on: the prose, and two thousand samples of each skill of the mix.

    They do not depend on a seed, so that runs of different seeds read with one tokenizer.
    """
    yield from documents("train")
    for name in skills:
        yield from (f"{sample.prompt}\n{sample.answer}" for sample in islice(SKILLS[name].stream("train"), 2000))


def windows(
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    length: int,
    mix: Mapping[str, float],
    repeats: Mapping[int, float],
    seed: int,
) -> np.ndarray:
    """[count, length] uint16 token windows in training order.

    `mix` gives each skill's share; prose has the rest. The prose is cut into windows that do not overlap; each is read
    1, 2, 4, .. times by a draw from the shares in `repeats`, and all readings are shuffled. So how often a passage was
    read is known, and random: what a model remembers of it can be told from what it would have guessed anyway. Prose
    that is used up before `count` is read over again, in another order.

    Raises:
        ValueError: the tokenizer has more entries than 16 bits hold.

    """
    if len(tokenizer) > 2**16:
        raise ValueError(f"the tokenizer has {len(tokenizer)} entries: windows are kept in 16 bits")
    rng = random.Random(f"corpus/{seed}")
    names = ["prose", *mix]
    kinds = rng.choices(names, [1 - sum(mix.values()), *mix.values()], k=count)
    sources: dict[str, Iterator[list[int]]] = {name: _packed_samples(tokenizer, name, length, seed) for name in mix}
    sources["prose"] = _repeated(_prose_windows(tokenizer, length), repeats, rng)
    return np.array([next(sources[kind]) for kind in kinds], dtype=np.uint16)


def _repeated(rows: list[list[int]], repeats: Mapping[int, float], rng: random.Random) -> Iterator[list[int]]:
    times = rng.choices(list(repeats), list(repeats.values()), k=len(rows))
    readings = [index for index, number in enumerate(times) for _ in range(number)]
    while True:
        rng.shuffle(readings)
        yield from (rows[index] for index in readings)


def _prose_windows(tokenizer: PreTrainedTokenizerFast, length: int) -> list[list[int]]:
    ids: list[int] = []
    for document in documents("train"):
        ids += [*tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"], tokenizer.eos_token_id]
    return [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]


def _packed_samples(tokenizer: PreTrainedTokenizerFast, name: str, length: int, seed: int) -> Iterator[list[int]]:
    ids: list[int] = []
    for sample in SKILLS[name].stream("train", seed):
        ids += tokenizer(chat_text(sample), add_special_tokens=False)["input_ids"]
        while len(ids) >= length:
            yield ids[:length]
            ids = ids[length:]
