"""The reward is the verifier's verdict, on a testbed sample or on the answer of a file's row."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from limberlm.stages.verifier import cell_sample, same_answer, sample_cell, verifier_reward
from limberlm.testbed import SKILLS, SPLITS, Sample

NUMBERS = st.integers(-(10**7), 10**7) | st.decimals(-(10**4), 10**4, places=2)


@pytest.mark.parametrize("name", SKILLS)
def test_a_sample_is_the_same_after_a_dataset(name: str) -> None:
    samples = [sample for split in SPLITS for sample in SKILLS[name].samples(split, 5)]
    rows = Dataset.from_list([{"sample": sample_cell(sample)} for sample in samples])
    assert [cell_sample(row["sample"]) for row in rows] == samples


def test_hidden_cases_survive() -> None:
    sample = Sample("f?", "x + 1", cases=(("1", "2"), ("2", "3")), choices=("a", "b"), rejected="x")
    assert cell_sample(sample_cell(sample)) == sample


@pytest.mark.parametrize("name", SKILLS)
@pytest.mark.parametrize("chat", [True, False])
def test_a_skills_reward_is_its_own_verdict(name: str, chat: bool) -> None:
    skill, rng = SKILLS[name], random.Random(0)
    samples = skill.samples("train", 20)
    said = [sample.answer if rng.random() < 0.5 else skill.distract(rng, sample) for sample in samples]
    completions: list[Any] = [[{"role": "assistant", "content": text}] for text in said] if chat else said
    rewards = verifier_reward(f"testbed:{name}")(
        prompts=[s.prompt for s in samples],
        completions=completions,
        sample=[sample_cell(sample) for sample in samples],
        trainer_state=None,
    )
    assert rewards == [float(skill.judge(sample, text)) for sample, text in zip(samples, said, strict=True)]
    assert set(rewards) == {0.0, 1.0}


@given(numbers=st.lists(NUMBERS, min_size=1, max_size=5), answer=NUMBERS, last=st.booleans(), commas=st.booleans())
def test_a_number_is_judged_by_the_last_number_said(numbers: list[Any], answer: Any, last: bool, commas: bool) -> None:
    said = [*numbers, answer] if last else numbers
    output = " then ".join(f"{number:,}" if commas else str(number) for number in said)
    assert same_answer(str(answer), output) == (said[-1] == answer)


@pytest.mark.parametrize(
    ("answer", "output", "right"),
    [
        ("18", "She makes 9 * 2 = $18 every day.\n#### 18", True),
        ("1080", "#### 1,080", True),
        ("2", "5-3=2.", True),
        ("3", "5-3", True),
        ("-3", "it is -3", True),
        ("3", "1,2,3", True),
        ("70", "70.00 dollars", True),
        ("70", "7", False),
        ("70", "", False),
        ("70", "seventy", False),
        ("Paris", "Paris", True),
        ("Paris", "  Paris\n", True),
        ("Paris", "It is Paris", False),
        ("two 2", "2", False),
    ],
)
def test_answers_of_a_file(answer: str, output: str, right: bool) -> None:
    assert same_answer(answer, output) == right
    assert verifier_reward("rows.jsonl")(completions=[output], answer=[answer]) == [float(right)]
