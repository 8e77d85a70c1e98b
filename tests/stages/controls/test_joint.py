"""Joint data are the parts' rows and nothing else, whatever order the parts come in."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaForCausalLM

from limberlm.errors import UserError
from limberlm.stages import TRAINERS, StageData, load_stage_data
from limberlm.stages.controls.joint import joint_data
from limberlm.stages.data import Row
from limberlm.stages.settings.arguments import trainer_config
from limberlm.testbed import SKILLS
from tests.stages.runs import load

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def key(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


def counted(rows: list[Row]) -> Counter[str]:
    return Counter(map(key, rows))


def texts(source: str, count: int, held_out: int = 0) -> StageData:
    rows = [{"text": f"{source} {i}"} for i in range(count + held_out)]
    return StageData(source, rows[:count], rows[count:], source)


def skill_rows(name: str, seed: int = 0, rows: int = 40) -> StageData:
    return load_stage_data(f"testbed:{name}", "sft", seed=seed, rows=rows)


# --- what is in it


def test_every_row_of_every_part_is_there_once_and_shuffled() -> None:
    parts = [skill_rows("instructions"), skill_rows("arithmetic", rows=25), skill_rows("programs", rows=10)]
    joint = joint_data(parts, seed=0)
    union = [row for part in parts for row in part.train]
    assert counted(joint.train) == counted(union)
    assert joint.train != union
    first = {key(row) for row in parts[0].train}
    assert 0 < sum(key(row) in first for row in joint.train[:20]) < 20  # the parts are mixed
    assert joint.source == "testbed:arithmetic + testbed:instructions + testbed:programs"


def test_held_out_rows_are_the_parts_own_untouched() -> None:
    parts = [skill_rows("instructions"), skill_rows("arithmetic")]
    joint = joint_data(parts, seed=0, rows=[3, 5])
    assert counted(joint.held_out) == counted([row for part in parts for row in part.held_out])
    assert not set(map(key, joint.held_out)) & set(map(key, joint.train))
    assert joint.held_out == joint_data(parts, seed=9, rows=[1, 1]).held_out


COUNTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), min_size=2, max_size=4)


@given(counts=COUNTS, seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_so_many_rows_of_each_part_in_whole_passes_whatever_the_order_of_parts(
    counts: list[tuple[int, int]], seed: int, order: Any
) -> None:
    chosen = [(texts(f"part {i}", size, held_out=2), rows) for i, (size, rows) in enumerate(counts)]
    joint = joint_data([part for part, _ in chosen], seed=seed, rows=[rows for _, rows in chosen])
    taken = counted(joint.train)
    for part, rows in chosen:
        own = [taken[key(row)] for row in part.train]
        assert sum(own) == rows
        assert max(own) - min(own) <= 1  # no row a second time before every row came once
    assert sum(taken.values()) == sum(rows for _, rows in chosen)
    order.shuffle(chosen)
    again = joint_data([part for part, _ in chosen], seed=seed, rows=[rows for _, rows in chosen])
    assert again == joint


def test_the_seed_moves_the_order_and_which_rows_are_taken() -> None:
    parts = [texts("a", 50), texts("b", 50)]
    one, same, other = (joint_data(parts, seed=seed, rows=[10, 10]) for seed in (1, 1, 2))
    assert one == same
    assert counted(one.train) != counted(other.train)
    assert counted(joint_data(parts, seed=1).train) == counted(joint_data(parts, seed=2).train)
    assert joint_data(parts, seed=1).train != joint_data(parts, seed=2).train


def test_rows_taken_are_a_random_share_and_not_the_first() -> None:
    joint = joint_data([texts("a", 200), texts("b", 200)], seed=0, rows=[50, 50])
    places = [int(row["text"].split()[1]) for row in joint.train if row["text"].startswith("a")]
    assert 70 < sum(places) / len(places) < 130


def test_copies_across_parts_are_kept() -> None:
    parts = [StageData(name, [{"text": "the same"}, {"text": name}], [], name) for name in ("a", "b")]
    assert counted(joint_data(parts, seed=0).train)[key({"text": "the same"})] == 2
    twice = [texts("a", 5), texts("a", 5)]
    assert counted(joint_data(twice, seed=0).train) == counted([row for part in twice for row in part.train])
    assert joint_data(twice, seed=0).source == "a + a"


def test_the_digest_follows_the_rows_and_never_the_names() -> None:
    parts = [texts("a", 9, held_out=2), texts("b", 7)]
    renamed = [StageData(name, part.train, part.held_out, "?") for name, part in zip("zy", parts, strict=True)]
    joint = joint_data(parts, seed=0)
    assert joint_data(renamed, seed=0).digest == joint.digest
    assert joint_data(renamed, seed=0).train == joint.train
    changed = StageData("b", [*parts[1].train[:-1], {"text": "another"}], [], "b")
    held_out = StageData("a", parts[0].train, parts[0].held_out[:1], "a")
    others = [joint_data([parts[0], changed], seed=0), joint_data([held_out, parts[1]], seed=0)]
    others += [joint_data(parts, seed=1), joint_data(parts, seed=0, rows=[9, 6])]
    assert len({joint.digest, *(other.digest for other in others)}) == 5


def test_the_parts_are_left_as_they_were() -> None:
    parts = [texts("a", 5, held_out=1), StageData("b", [{"prompt": "p", "completion": "c"}], [], "b")]
    before = json.dumps([vars(part) for part in parts])
    joint_data(parts, seed=0)
    assert json.dumps([vars(part) for part in parts]) == before


# --- rows of unlike form


def test_text_and_plain_prompts_become_one_form() -> None:
    joint = joint_data(
        [texts("a", 2, held_out=1), StageData("b", [{"prompt": "p", "completion": "c"}], [], "b")], seed=0
    )
    assert counted(joint.train) == counted(
        [
            {"prompt": "", "completion": "a 0"},
            {"prompt": "", "completion": "a 1"},
            {"prompt": "p", "completion": "c"},
        ]
    )
    assert joint.held_out == [{"text": "a 2"}]
    assert {key(row) for row in joint_data([texts("a", 2), texts("b", 1)], seed=0).train} >= {key({"text": "a 0"})}


def seen_by_the_trainer(folder: Path, model: LlamaForCausalLM, rows: list[Row], out: Path) -> list[Any]:
    """Token ids and labels of each row as TRL's own collator gives them, the first label aside: nothing predicts it."""
    kind = TRAINERS["sft"]
    trainer = kind.trainer_class()(
        model=model,
        args=trainer_config(kind, {"max_steps": 1}, where="x", seed=0, scratch=out),
        train_dataset=StageData("x", rows, [], "").dataset(),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    batches = (trainer.data_collator([row]) for row in trainer.train_dataset)
    return [(batch["input_ids"].tolist(), batch["labels"][:, 1:].tolist()) for batch in batches]


def test_an_empty_prompt_trains_the_tokens_of_plain_text(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "the cat sat on the mat"}, {"text": "one\ntwo three"}]
    prompted = StageData("b", [{"prompt": "a", "completion": "b"}], [], "b")
    joint = joint_data([StageData("a", rows, [], "a"), prompted], seed=0)
    converted = sorted((row for row in joint.train if row["prompt"] == ""), key=key)
    assert len(converted) == 2
    seen = [
        seen_by_the_trainer(tiny_model_folder, load(tiny_model_folder), each, tmp_path)
        for each in (converted, [{"text": row["completion"]} for row in converted])
    ]
    assert seen[0] == seen[1]
    assert all(label != -100 for _, labels in seen[0] for label in labels[0])


ROWS: dict[str, Row] = {
    "messages": {"messages": CHAT},
    "prompt/completion as chat messages": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "prompt/completion as plain text": {"prompt": "hi", "completion": "ho"},
    "text": {"text": "hi"},
}


@pytest.mark.parametrize("one", ROWS)
@pytest.mark.parametrize("other", ROWS)
def test_rows_that_train_other_tokens_are_refused_naming_both(one: str, other: str) -> None:
    parts = [StageData(f"{name}.jsonl", [ROWS[form]], [], name) for name, form in (("a", one), ("b", other))]
    if one == other or {one, other} == {"text", "prompt/completion as plain text"}:
        assert len(joint_data(parts, seed=0).train) == 2
        return
    with pytest.raises(UserError) as caught:
        joint_data(parts, seed=0)
    assert str(caught.value) == (
        f"joint: a.jsonl has {one} and b.jsonl {other}, which train other tokens; write both in the same columns"
    )


# --- refusals


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "chosen, prompt, rejected"),
        ({"prompt": "p", "completion": "c", "label": True}, "completion, label, prompt"),
        ({"prompt": "p", "answer": "c"}, "answer, prompt"),
    ],
)
def test_preferences_and_rewarded_rows_are_refused_by_name(row: Row, columns: str) -> None:
    with pytest.raises(UserError) as caught:
        joint_data([texts("a", 3), StageData("b.jsonl", [row], [], "b")], seed=0)
    assert str(caught.value) == (
        f"joint: b.jsonl has rows of {columns}, which are not for supervised training; leave its stage out"
    )


@pytest.mark.parametrize(("parts", "names"), [([], "none"), ([texts("a", 3)], "a")])
def test_fewer_than_two_parts_are_refused(parts: list[StageData], names: str) -> None:
    with pytest.raises(UserError) as caught:
        joint_data(parts, seed=0)
    assert str(caught.value) == (
        f"joint: rows of two supervised stages or more make a joint stage, and there are {names}"
    )


def test_what_is_held_out_in_one_part_and_trained_on_in_another_is_refused() -> None:
    one = texts("a.jsonl", 4, held_out=2)
    parts = [StageData("b.jsonl", [{"text": "b"}, one.held_out[1]], [], "b"), one]
    with pytest.raises(UserError) as caught:
        joint_data(parts, seed=0)
    assert str(caught.value) == (
        "b.jsonl is trained on and a.jsonl is evaluated on, and they share a question: 'a.jsonl 5' is row 2 of the one "
        "and row 2 of the other; take it out of one of them"
    )


def test_any_two_skills_of_the_testbed_can_be_joined() -> None:
    names = [name for name, skill in SKILLS.items() if skill.kind != "dpo"]
    for one, other in combinations(names, 2):
        assert len(joint_data([skill_rows(one), skill_rows(other)], seed=0).train) == 80


@pytest.mark.parametrize("rows", [[1], [1, 0], [1, 2, 3], []])
def test_rows_must_be_one_positive_number_for_each_part(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="one positive number for each of the 2 parts"):
        joint_data([texts("a", 3), texts("b", 3)], seed=0, rows=rows)
