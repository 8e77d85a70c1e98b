"""Rows of single labelled completions: from preference pairs or as they are, shuffled, and held out by question."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.data_utils import extract_prompt, unpair_preference_dataset

from limberlm.stages import load_stage_data
from limberlm.stages.data import HELD_OUT_ROWS, Row
from limberlm.testbed import SKILLS


def keys(rows: list[Row]) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


def turn(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pairs(count: int, chat: bool = False) -> list[Row]:
    def said(role: str, text: str) -> Any:
        return turn(role, text) if chat else text

    return [
        {
            "prompt": said("user", f"question {i}?"),
            "chosen": said("assistant", f"good {i}"),
            "rejected": said("assistant", f"bad {i}"),
        }
        for i in range(count)
    ]


def write(folder: Path, rows: list[Row]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("chat", [False, True])
def test_pairs_become_the_rows_that_trl_makes_of_them(tmp_path: Path, chat: bool) -> None:
    data = load_stage_data(write(tmp_path, pairs(9, chat)), "kto", seed=0)
    theirs = unpair_preference_dataset(Dataset.from_list(pairs(9, chat))).to_list()
    assert keys(data.train) == keys(theirs)
    assert data.held_out == []


@pytest.mark.parametrize("chat", [False, True])
def test_a_shared_beginning_becomes_the_prompt_as_trl_finds_it(tmp_path: Path, chat: bool) -> None:
    whole = [
        {side: row["prompt"] + row[side] if chat else f"{row['prompt']} {row[side]}" for side in ("chosen", "rejected")}
        for row in pairs(9, chat)
    ]
    data = load_stage_data(write(tmp_path, whole), "kto", seed=0)
    theirs = unpair_preference_dataset(Dataset.from_list(whole).map(extract_prompt)).to_list()
    assert keys(data.train) == keys(theirs)
    assert all(row["prompt"] for row in data.train)


def test_both_sides_of_a_pair_are_trained_on_or_held_out_together(tmp_path: Path) -> None:
    path = write(tmp_path, pairs(200))
    data, paired = load_stage_data(path, "kto", seed=0), load_stage_data(path, "dpo", seed=0)
    assert len(data.train) == 360
    assert data.held_out == paired.held_out  # so that both are read on the same pairs
    assert not {row["prompt"] for row in data.train} & {row["prompt"] for row in data.held_out}


def test_rows_are_shuffled_by_the_seed_and_their_choice_is_not(tmp_path: Path) -> None:
    path = write(tmp_path, pairs(100))
    one, again, other = (load_stage_data(path, "kto", seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one.train != other.train
    assert keys(one.train) == keys(other.train)
    assert one.held_out == other.held_out
    in_order = [row["label"] for row in one.train]
    assert 0 < sum(in_order[:32]) < 32  # neither sorted by label
    neighbours = sum(a["prompt"] == b["prompt"] for a, b in zip(one.train, one.train[1:], strict=False))
    assert neighbours <= 5  # nor by pair: of 180 rows one is expected


@pytest.mark.parametrize(("rows", "good"), [(1, 1), (7, 4), (8, 4)])
def test_the_row_limit_counts_completions(tmp_path: Path, rows: int, good: int) -> None:
    data = load_stage_data(write(tmp_path, pairs(9)), "kto", seed=0, rows=rows)
    assert len(data.train) == rows
    assert sum(row["label"] for row in data.train) == good
    assert len(load_stage_data("testbed:preferences", "kto", seed=0, rows=rows).train) == rows


def test_labels_may_be_booleans_or_0_and_1(tmp_path: Path) -> None:
    def rows(labels: list[Any]) -> list[Row]:
        return [{"prompt": f"q{i}", "completion": "c", "label": label} for i, label in enumerate(labels)]

    plain = load_stage_data(write(tmp_path, rows([True, False, True])), "kto", seed=0)
    numbers = load_stage_data(write(tmp_path, rows([1, 0, 1.0])), "kto", seed=0)
    assert plain == numbers
    assert all(type(row["label"]) is bool for row in numbers.train)


def test_of_labelled_rows_the_wanted_ones_are_read_for_a_loss(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i}", "completion": f"answer {j}", "label": j == 0} for i in range(60) for j in range(2)
    ]
    data = load_stage_data(write(tmp_path, rows), "kto", seed=0)
    assert len(data.held_out) == 6
    assert {row["completion"] for row in data.held_out} == {"answer 0"}
    assert all(set(row) == {"prompt", "completion"} for row in data.held_out)
    assert not {row["prompt"] for row in data.train} & {row["prompt"] for row in data.held_out}


@pytest.mark.parametrize("chat", [False, True])
def test_testbed_preferences_are_pairs_to_dpo_and_labelled_completions_to_kto(chat: bool) -> None:
    data = load_stage_data("testbed:preferences", "kto", seed=5, rows=40, chat=chat)
    paired = load_stage_data("testbed:preferences", "dpo", seed=5, rows=20, chat=chat)
    assert keys(data.train) == keys(unpair_preference_dataset(Dataset.from_list(paired.train)).to_list())
    assert data.held_out == paired.held_out
    assert len(data.held_out) == HELD_OUT_ROWS
    assert sum(row["label"] for row in data.train) == 20
    samples = {s.answer for s in SKILLS["preferences"].samples("train", 20, 5)}
    good = [row["completion"] for row in data.train if row["label"]]
    assert {text if isinstance(text, str) else text[0]["content"] for text in good} == samples
