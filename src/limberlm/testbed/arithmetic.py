"""Arithmetic: sums, differences, products and remainders in one or two steps, and short word problems."""

from __future__ import annotations

import random
import re

from limberlm.testbed.skill import Sample, ShiftAxes, Skill

_STORIES = (
    ("Tom has {} {} and finds {} more. How many?", "+"),
    ("Ann had {} {} and lost {}. How many?", "-"),
)
_NUMBER = re.compile(r"-?[0-9]+")  # not str.isdigit, which takes "²" for a digit
_THINGS = ("apples", "books", "stones", "shoes", "cups")


def _apply(left: int, operator: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "*": left * right, "mod": left % max(right, 1)}[operator]


def _operands(rng: random.Random, operator: str, shifted: bool) -> tuple[int, int]:
    low, high = (21, 60) if shifted else (0, 20)
    if operator == "*":
        low, high = (low + 1) // 2, high // 2
        return rng.randint(low, high), rng.randint(low, high)
    if operator == "mod":
        return rng.randint(2 * low, 2 * high), rng.randint(2, 9)
    left, right = rng.randint(low, high), rng.randint(low, high)
    return (max(left, right), min(left, right)) if operator == "-" else (left, right)


def draw(rng: random.Random, shifted: bool) -> Sample:
    """One problem with operands of 0 to 20; 21 to 60 when shifted. Two-step answers show the first step."""
    form = rng.choice(("one", "one", "two", "story"))
    if form == "story":
        story, operator = rng.choice(_STORIES)
        left, right = _operands(rng, operator, shifted)
        return Sample(story.format(left, rng.choice(_THINGS), right), str(_apply(left, operator, right)))
    operator = rng.choice(("+", "-", "*", "mod"))
    left, right = _operands(rng, operator, shifted)
    value = _apply(left, operator, right)
    if form == "one":
        return Sample(f"What is {left} {operator} {right}?", str(value))
    extra = rng.randint(0, 9)
    return Sample(f"What is {left} {operator} {right}, then + {extra}?", f"{value}, {value + extra}")


def final_number(text: str) -> str:
    """The last whole number of an output, which is what is judged; the empty string if there is none.

    >>> final_number("12, 15")
    '15'
    """
    numbers = [word for part in text.split() if _NUMBER.fullmatch(word := part.strip(".,"))]
    return str(int(numbers[-1])) if numbers else ""


def same_number(sample: Sample, output: str) -> bool:
    """True if the last whole number of the output is that of the answer."""
    return final_number(output) == final_number(sample.answer)


def near_miss(rng: random.Random, sample: Sample) -> str:
    """Another number close to the answer, in the answer's form."""
    *steps, last = sample.answer.split(", ")
    return ", ".join([*steps, str(max(0, int(last) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))))])


ARITHMETIC = Skill(
    name="arithmetic",
    kind="sft",
    description="+, -, *, mod in one and two steps, and short word problems",
    shift="difficulty: operands of 21 to 60 where training has 0 to 20",
    shift_axes=ShiftAxes(difficulty=2),
    draw=draw,
    distract=near_miss,
    judge=same_number,
)
