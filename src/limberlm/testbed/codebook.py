"""Codebook: a future task. Every word has a fixed code word, which no other skill reveals."""

from __future__ import annotations

import random

from limberlm.testbed.skill import Sample, ShiftAxes, Skill
from limberlm.testbed.words import WORDS

_PLAIN = WORDS[::8]
_CODE = dict(zip(_PLAIN, random.Random("codebook").sample(_PLAIN, len(_PLAIN)), strict=True))


def draw(rng: random.Random, shifted: bool) -> Sample:
    """2 to 4 words to encode; 5 or 6 when shifted."""
    words = rng.sample(_PLAIN, rng.randint(5, 6) if shifted else rng.randint(2, 4))
    return Sample(f"Encode: {' '.join(words)}", " ".join(_CODE[word] for word in words))


def wrong_code(rng: random.Random, sample: Sample) -> str:
    """The answer with one code word replaced."""
    words = sample.answer.split()
    words[rng.randrange(len(words))] = rng.choice(_PLAIN)
    return " ".join(words)


CODEBOOK = Skill(
    name="codebook",
    kind="future",
    description="encode words with a fixed secret code: never in a chain, only to measure plasticity",
    shift="length: 5 or 6 words where training has 2 to 4",
    shift_axes=ShiftAxes(difficulty=1),
    draw=draw,
    distract=wrong_code,
)
