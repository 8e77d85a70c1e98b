"""Modular map: a future task. Every number x becomes (5 x + 3) mod 23, a rule that no other skill uses."""

from __future__ import annotations

import random

from limberlm.testbed.skill import Sample, ShiftAxes, Skill

FACTOR, OFFSET, MODULUS = 5, 3, 23


def draw(rng: random.Random, shifted: bool) -> Sample:
    """2 to 4 numbers of 0 to 22 to map; of 23 to 68 when shifted, which are congruent to those of training."""
    low, high = (MODULUS, 3 * MODULUS - 1) if shifted else (0, MODULUS - 1)
    numbers = [rng.randint(low, high) for _ in range(rng.randint(2, 4))]
    return Sample(f"Map: {', '.join(map(str, numbers))}", ", ".join(str(mapped(number)) for number in numbers))


def mapped(number: int) -> int:
    """The image of a number, 0 to 22.

    >>> mapped(0), mapped(4), mapped(27)
    (3, 0, 0)
    """
    return (FACTOR * number + OFFSET) % MODULUS


def wrong_number(rng: random.Random, sample: Sample) -> str:
    """The answer with one number replaced."""
    numbers = sample.answer.split(", ")
    numbers[rng.randrange(len(numbers))] = str(rng.randrange(MODULUS))
    return ", ".join(numbers)


MODULAR_MAP = Skill(
    name="modular_map",
    kind="future",
    description="map numbers x to (5 x + 3) mod 23: never in a chain, only to measure plasticity",
    shift="difficulty: numbers of 23 to 68 where training has 0 to 22",
    shift_axes=ShiftAxes(difficulty=2),
    draw=draw,
    distract=wrong_number,
)
