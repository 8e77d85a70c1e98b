"""Scratchpads equal an independent working of the problem, and steps are judged apart from the last number."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.testbed import SPLITS
from limberlm.testbed.long_arithmetic import LONG_ARITHMETIC, slip, steps_right


def results(prompt: str) -> list[Fraction]:
    """The start and the result of every step, in exact fractions."""
    asked = re.fullmatch(r"Start with (\d+)\. (.*) What is left\?", prompt)
    assert asked, prompt
    values = [Fraction(asked[1])]
    for step in asked[2].rstrip(".").split(". "):
        word, _, operand = step.partition(" ")
        now = values[-1]
        change = {
            "Add": now + int(operand or 0),
            "Subtract": now - int(operand or 0),
            "Double": now * 2,
            "Halve": now / 2,
        }
        values.append(change[word])
    return values


def worked(answer: str) -> list[int]:
    return [int(step.split(": ")[-1]) for step in answer.rstrip(".").split(". ")]


@pytest.mark.parametrize("split", SPLITS)
def test_every_step_equals_an_independent_working(split: str) -> None:
    for sample in islice(LONG_ARITHMETIC.stream(split), 1500):
        assert worked(sample.answer) == results(sample.prompt)
        assert all(0 <= value <= 99 for value in worked(sample.answer))
        operations = re.findall(r"(?:Add|Subtract) \d|Double|Halve", sample.prompt)
        assert operations == re.findall(r"(?:Add|Subtract) \d|Double|Halve", sample.answer)


def test_the_shift_is_in_the_number_of_steps() -> None:
    for split, lengths in (("train", {3, 4, 5, 6}), ("out_of_domain", {7, 8, 9, 10})):
        assert {len(worked(s.answer)) - 1 for s in islice(LONG_ARITHMETIC.stream(split), 500)} == lengths


def test_all_operations_occur() -> None:
    text = " ".join(s.prompt for s in islice(LONG_ARITHMETIC.stream("train"), 500))
    assert all(text.count(word) > 300 for word in ("Add", "Subtract", "Double", "Halve"))


def test_the_last_number_and_the_steps_are_judged_apart() -> None:
    sample = next(s for s in LONG_ARITHMETIC.stream("train") if worked(s.answer)[1] != worked(s.answer)[-1])
    last = worked(sample.answer)[-1]
    assert LONG_ARITHMETIC.verify(sample, sample.answer)
    assert steps_right(sample, sample.answer)
    assert steps_right(sample, sample.answer.rstrip(".") + " \n")
    first_wrong = re.sub(r": \d+", ": 98", sample.answer, count=1)
    assert LONG_ARITHMETIC.verify(sample, first_wrong)
    assert not steps_right(sample, first_wrong)
    for lucky in (f"{last}", f"The answer is {last}.", sample.answer.split(". ", 1)[1]):
        assert LONG_ARITHMETIC.verify(sample, lucky)
        assert not steps_right(sample, lucky)
    skipped = ". ".join(sample.answer.split(". ")[:-1])
    assert not steps_right(sample, skipped)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_slip_is_one_wrong_result_carried_on(seed: int) -> None:
    rng = random.Random(seed)
    sample = LONG_ARITHMETIC.draw(rng, seed % 2 == 0)
    text = slip(rng, sample)
    wrong, right = worked(text), worked(sample.answer)
    assert re.sub(r": \d+", "", text) == re.sub(r": \d+", "", sample.answer)
    first = next(i for i, (one, other) in enumerate(zip(wrong, right, strict=True)) if one != other)
    assert first >= 1
    assert wrong[-1] != right[-1]
    assert not LONG_ARITHMETIC.verify(sample, text)
    assert not steps_right(sample, text)


@given(st.text(st.sampled_from("0123456789:. AddDoublew\n²٣")))
def test_no_output_breaks_the_judges(text: str) -> None:
    sample = LONG_ARITHMETIC.samples("train", 1)[0]
    assert steps_right(sample, text) is False
    assert LONG_ARITHMETIC.verify(sample, text) in (True, False)
