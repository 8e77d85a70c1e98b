"""Cipher: a future task. Letters are written in a fixed secret alphabet, which no other skill reveals."""

from __future__ import annotations

import random
from string import ascii_lowercase

from limberlm.testbed.skill import Sample, ShiftAxes, Skill

_SECRET = dict(zip(ascii_lowercase, random.Random("cipher").sample(ascii_lowercase, 26), strict=True))


def draw(rng: random.Random, shifted: bool) -> Sample:
    """3 to 5 random letters to encipher; 6 to 8 when shifted. Spaces between them make each a token of its own."""
    letters = rng.choices(ascii_lowercase, k=rng.randint(6, 8) if shifted else rng.randint(3, 5))
    return Sample(f"Cipher: {' '.join(letters)}", " ".join(_SECRET[letter] for letter in letters))


def wrong_letter(rng: random.Random, sample: Sample) -> str:
    """The answer with one letter replaced."""
    letters = sample.answer.split()
    letters[rng.randrange(len(letters))] = rng.choice(ascii_lowercase)
    return " ".join(letters)


CIPHER = Skill(
    name="cipher",
    kind="future",
    description="write letters in a fixed secret alphabet: never in a chain, only to measure plasticity",
    shift="length: 6 to 8 letters where training has 3 to 5",
    shift_axes=ShiftAxes(difficulty=1),
    draw=draw,
    distract=wrong_letter,
)
