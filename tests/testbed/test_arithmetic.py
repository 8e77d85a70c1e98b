"""Arithmetic answers equal an independent reading of the prompt."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.testbed import SPLITS
from limberlm.testbed.arithmetic import ARITHMETIC, final_number


def worked(prompt: str) -> str:
    """The answer, by Python's own arithmetic."""
    if found := re.fullmatch(r"Tom has (\d+) \w+ and finds (\d+) more\. How many\?", prompt):
        return str(int(found[1]) + int(found[2]))
    if lost := re.fullmatch(r"Ann had (\d+) \w+ and lost (\d+)\. How many\?", prompt):
        return str(int(lost[1]) - int(lost[2]))
    step = re.fullmatch(r"What is (\d+ (?:[-+*]|mod) \d+)(?:, then \+ (\d+))?\?", prompt)
    assert step, prompt
    value = eval(step[1].replace("mod", "%"))
    return str(value) if step[2] is None else f"{value}, {value + int(step[2])}"


@pytest.mark.parametrize("split", SPLITS)
def test_answers_equal_an_independent_evaluation(split: str) -> None:
    for sample in islice(ARITHMETIC.stream(split), 2000):
        assert sample.answer == worked(sample.prompt)


def operands(prompt: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", prompt.split(", then")[0])]


def test_the_shift_is_in_the_size_of_the_operands() -> None:
    for split, sums in (("train", range(21)), ("out_of_domain", range(21, 61))):
        for sample in islice(ARITHMETIC.stream(split), 2000):
            if "*" not in sample.prompt and "mod" not in sample.prompt:
                assert all(n in sums for n in operands(sample.prompt))
            assert int(final_number(sample.answer)) >= 0


def test_all_forms_and_operators_occur() -> None:
    prompts = [s.prompt for s in islice(ARITHMETIC.stream("train"), 500)]
    assert all(any(mark in p for p in prompts) for mark in (" + ", " - ", " * ", " mod ", ", then + ", "Tom", "Ann"))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12, 15", "15"),
        ("The answer is 7.", "7"),
        (" 007 ", "7"),
        ("-3", "-3"),
        ("--3", ""),
        ("x²  ²", ""),
        ("3 apples", "3"),
        ("", ""),
        ("none", ""),
        ("12,15", ""),
    ],
)
def test_the_last_whole_number_is_judged(text: str, number: str) -> None:
    assert final_number(text) == number


@given(st.text(st.sampled_from("0123456789-+., ²٣\nab")))
def test_no_output_breaks_the_verifier(text: str) -> None:
    assert re.fullmatch(r"-?\d+|", final_number(text))
