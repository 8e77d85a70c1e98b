"""Long arithmetic: many-step problems answered with a worked scratchpad, the long chain-of-thought skill."""

from __future__ import annotations

import random

from limberlm.testbed.arithmetic import same_number
from limberlm.testbed.skill import Sample, ShiftAxes, Skill

_LARGEST = 99


def _step(rng: random.Random, value: int) -> tuple[str, int]:
    """One operation that keeps the value a whole number of 0 to 99, and its result."""
    while True:
        kind = rng.randrange(4)
        if kind == 0 and value < _LARGEST:
            return f"Add {(n := rng.randint(1, min(9, _LARGEST - value)))}", value + n
        if kind == 1 and value > 0:
            return f"Subtract {(n := rng.randint(1, min(9, value)))}", value - n
        if kind == 2 and 0 < value <= _LARGEST // 2:
            return "Double", 2 * value
        if kind == 3 and value > 0 and value % 2 == 0:
            return "Halve", value // 2


def draw(rng: random.Random, shifted: bool) -> Sample:
    """3 to 6 steps, each worked in the answer; 7 to 10 when shifted. All values are whole numbers of 0 to 99."""
    value = rng.randint(1, 20)
    asked, worked = [f"Start with {value}."], [f"{value}."]
    for _ in range(rng.randint(7, 10) if shifted else rng.randint(3, 6)):
        step, value = _step(rng, value)
        asked.append(f"{step}.")
        worked.append(f"{step}: {value}.")
    return Sample(f"{' '.join(asked)} What is left?", " ".join(worked))


def scratchpad(text: str) -> list[str]:
    """The steps of a worked answer, spacing aside.

    >>> scratchpad("4. Add 3: 7. Double: 14.")
    ['4', 'Add 3: 7', 'Double: 14']
    """
    return [" ".join(step.split()) for step in text.split(".") if step.strip()]


def steps_right(sample: Sample, output: str) -> bool:
    """True if the output works every step as the answer does: the same operations in order, each result right.

    Stricter than the verifier, which reads the final number only: a right number may come from wrong steps.
    """
    return scratchpad(output) == scratchpad(sample.answer)


def slip(rng: random.Random, sample: Sample) -> str:
    """The scratchpad with one result wrong and the steps after it worked on from there; its last number is wrong."""
    start, *steps = sample.answer.removesuffix(".").split(". ")
    operations, results = zip(*(step.split(": ") for step in steps), strict=True)
    while True:
        at, value = rng.randrange(len(steps)), int(start)
        worked = [f"{start}."]
        for place, operation in enumerate(operations):
            value = _carried_out(operation, value)
            if place == at:
                value = max(0, value + rng.choice((-10, -2, -1, 1, 2, 10)))
            worked.append(f"{operation}: {value}.")
        if value != int(results[-1]):
            return " ".join(worked)


def _carried_out(operation: str, value: int) -> int:
    word, _, operand = operation.partition(" ")
    if word == "Add":
        return value + int(operand)
    if word == "Subtract":
        return max(0, value - int(operand))
    return 2 * value if word == "Double" else value // 2


LONG_ARITHMETIC = Skill(
    name="long_arithmetic",
    kind="sft",
    description="add, subtract, double and halve over many steps, each worked in the answer",
    shift="length: 7 to 10 steps where training has 3 to 6",
    shift_axes=ShiftAxes(difficulty=1),
    draw=draw,
    distract=slip,
    judge=same_number,
)
