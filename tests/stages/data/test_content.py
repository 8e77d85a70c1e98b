"""Rows are the same by what they ask: a training row is found in an evaluation set whatever form the two have."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.stages import load_stage_data
from limberlm.stages.data import Row, question, refuse_shared_rows, shared_rows
from limberlm.stages.data.content import digest
from limberlm.testbed import SKILLS

ASKED = "What is 2 + 3?"


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, said, strict=False)]


FORMS: list[Row] = [
    {"prompt": ASKED, "completion": "5"},
    {"prompt": f"  {ASKED}\n", "completion": "2 + 3 is 5"},
    {"prompt": turns(ASKED), "completion": turns("", "5")[1:]},
    {"prompt": [{"role": "system", "content": "Be brief."}, *turns(ASKED)], "chosen": "5", "rejected": "6"},
    {"prompt": ASKED, "answer": 5},
    {"prompt": ASKED, "completion": "6", "label": False},
    {"messages": turns(ASKED, "Let me see: 5")},
    {"chosen": turns(ASKED, "5"), "rejected": turns(ASKED, "6")},
    {"question": ASKED, "choices": ["5", "6"], "answer": 0},
    {"text": ASKED},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": ASKED}]}], "answer": "5"},
]


@pytest.mark.parametrize("row", FORMS)
def test_a_question_is_the_same_in_every_form(row: Row) -> None:
    assert question(row) == ASKED
    assert all(shared_rows([other], [row]) == [(0, 0)] for other in FORMS)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 4?", "completion": "5"},
        {"prompt": "what is 2 + 3?", "completion": "5"},
        {"messages": turns(ASKED, "5", "And 4 + 4?", "8")},
        {"messages": [{"role": "assistant", "content": "5"}]},
        {"prompt": "", "completion": ASKED},
    ],
)
def test_another_question_is_another(row: Row) -> None:
    assert shared_rows(FORMS, [row]) == []


def test_rows_without_a_question_are_told_apart_by_all_that_they_hold() -> None:
    rows = [{"prompt": "", "completion": "a"}, {"prompt": "", "completion": "b"}, {"other": 1}, {}]
    assert shared_rows(rows, rows) == [(i, i) for i in range(4)]


@given(train=st.lists(st.integers(0, 40)), evaluation=st.lists(st.integers(0, 40)), seed=st.integers(0, 99))
def test_every_shared_row_is_found_and_no_other(train: list[int], evaluation: list[int], seed: int) -> None:
    rng = random.Random(seed)

    def row(number: int) -> Row:
        text = f"question {number}"
        return rng.choice([{"text": text}, {"prompt": turns(text), "answer": "x"}, {"messages": turns(text, "y")}])

    found = shared_rows([row(i) for i in train], [row(i) for i in evaluation])
    brute = [(train.index(asked), position) for position, asked in enumerate(evaluation) if asked in train]
    assert found == brute


def test_one_shared_row_is_refused_naming_both_files() -> None:
    train = [{"prompt": f"question {i}", "completion": "a"} for i in range(50)]
    evaluation = [{"prompt": f"other {i}", "answer": "b"} for i in range(30)] + [
        {"prompt": "question 7 ", "answer": "c"}
    ]
    refuse_shared_rows("train.jsonl", train, "test.jsonl", evaluation[:-1])
    with pytest.raises(UserError) as caught:
        refuse_shared_rows("train.jsonl", train, "test.jsonl", evaluation)
    assert str(caught.value) == (
        "train.jsonl is trained on and test.jsonl is evaluated on, and they share a question: 'question 7' is row 8 of "
        "the one and row 31 of the other; take it out of one of them"
    )


def test_a_long_question_of_many_lines_is_told_in_one_short_line() -> None:
    rows = [{"text": "a\nlong " * 50}, {"text": "b"}]
    with pytest.raises(UserError) as caught:
        refuse_shared_rows("x", rows, "y", rows)
    assert "\n" not in str(caught.value)
    assert "share 2 questions: 'a long a long" in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["instructions", "arithmetic", "refusals"])
def test_the_testbeds_own_splits_share_nothing(name: str) -> None:
    skill = SKILLS[name]
    train = load_stage_data(f"testbed:{name}", "sft", seed=0, rows=300)
    for split in ("in_domain", "out_of_domain", "multiple_choice"):
        assert shared_rows(train.train, [{"prompt": s.prompt} for s in skill.samples(split, 100)]) == []  # type: ignore[arg-type]
    assert shared_rows(train.train, train.held_out) == []
    leaked = [{"prompt": s.prompt} for s in skill.samples("train", 3)]
    assert shared_rows(train.train, leaked) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}], True),
        ([{"a": 1, "b": None}], [{"a": 1}], True),
        ([{"a": [{"b": None, "c": 1}]}], [{"a": [{"c": 1}]}], True),
        ([{"a": 1}], [{"a": "1"}], False),
        ([{"a": 1}, {"a": 2}], [{"a": 2}, {"a": 1}], False),
        ([{"a": []}], [{}], False),
    ],
)
def test_a_digest_is_of_what_the_rows_hold_in_their_order(one: list[Any], other: list[Any], same: bool) -> None:
    assert (digest(one) == digest(other)) == same
