"""Instructions and preferences: answers equal an independent reading of the prompt, and near misses miss."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from limberlm.testbed import SKILLS, SPLITS, Sample
from limberlm.testbed.instructions import OPERATIONS, wrong_answer
from limberlm.testbed.words import WORDS


def carried_out(prompt: str) -> str:
    """What a reader of the prompt would answer."""
    ask, listed = prompt.split(": ")
    words = listed.split(" ")
    match ask:
        case "Repeat" | "Copy these words":
            return listed
        case "Reverse" | "Say backwards":
            return " ".join(words[::-1])
        case "Sort" | "Put in order":
            return " ".join(sorted(words, key=str.casefold))
        case "Count" | "How many words":
            return str(listed.count(" ") + 1)
        case "First word of" | "Which word begins":
            return listed[: listed.index(" ")]
        case "Last word of" | "Which word ends":
            return listed[listed.rindex(" ") + 1 :]
        case "Upper case" | "In capitals":
            return listed.upper()
    raise AssertionError(prompt)


@pytest.mark.parametrize("name", ["instructions", "preferences"])
@pytest.mark.parametrize("split", SPLITS)
def test_answers_equal_an_independent_reading(name: str, split: str) -> None:
    for sample in islice(SKILLS[name].stream(split), 1000):
        assert sample.answer == carried_out(sample.prompt)


@pytest.mark.parametrize(("split", "lengths"), [("train", {2, 3, 4, 5}), ("out_of_domain", {6, 7, 8})])
def test_the_shift_is_in_the_number_of_words(split: str, lengths: set[int]) -> None:
    lists = [s.prompt.split(": ")[1].split() for s in islice(SKILLS["instructions"].stream(split), 500)]
    assert {len(words) for words in lists} == lengths
    assert all(len(set(words)) == len(words) and set(words) <= set(WORDS) for words in lists)


def test_every_way_of_asking_occurs() -> None:
    asked = {s.prompt.split(": ")[0] for s in islice(SKILLS["instructions"].stream("train"), 1000)}
    assert asked == {ask for asks, _ in OPERATIONS.values() for ask in asks}


def test_a_near_miss_is_never_the_answer() -> None:
    rng = random.Random(0)
    for sample in islice(SKILLS["instructions"].stream("train"), 1000):
        assert all(wrong_answer(rng, sample) != sample.answer for _ in range(20)), sample


def test_a_near_miss_of_one_word_is_mostly_another_word_of_the_question() -> None:
    rng = random.Random(0)
    sample = Sample("First word of: apple dog", "apple")
    drawn = [wrong_answer(rng, sample) for _ in range(500)]
    assert 350 < drawn.count("dog") < 450  # 0.8 of 500, sd 9
    assert len(set(drawn)) > 4


def test_words_are_distinct_lower_case_and_of_letters_only() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)
