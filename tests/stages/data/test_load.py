"""Stage data: right columns, disjoint held-out rows, and one line for every mistake."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.stages import load_stage_data
from limberlm.stages.data import HELD_OUT_ROWS, TESTBED_ROWS, Row
from limberlm.stages.data.content import split_held_out
from limberlm.testbed import SKILLS


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl", **dump: Any) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, **dump) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[Row]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


def key(row: Row) -> str:
    return json.dumps(row, sort_keys=True)


# --- JSONL


@pytest.mark.parametrize(
    ("trainer", "columns", "kept"),
    [
        ("sft", "prompt completion id", "prompt completion"),
        ("sft", "text completion prompt", "prompt completion"),
        ("sft", "text messages", "messages"),
        ("sft", "domain text", "text"),
        ("dpo", "score rejected prompt chosen", "prompt chosen rejected"),
        ("dpo", "text rejected chosen", "chosen rejected"),
        ("kto", "rejected label chosen completion prompt", "prompt completion label"),
        ("grpo", "completion answer prompt", "prompt answer"),
    ],
)
def test_the_first_columns_that_fit_are_kept_and_the_others_dropped(
    tmp_path: Path, trainer: str, columns: str, kept: str
) -> None:
    row = {name: f"some {name}" for name in columns.split()}
    if "messages" in row:
        row["messages"] = [{"role": "user", "content": "hi"}]
    if "label" in row:
        row["label"] = True
    data = load_stage_data(str(write(tmp_path, [row])), trainer, seed=0)
    assert data.train == [{name: row[name] for name in kept.split()}]
    assert data.held_out == []


def test_a_relative_path_starts_at_the_folder_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('\n{"text": "one"}\r\n  \n{"text": "two"}')
    data = load_stage_data("some.jsonl", "sft", seed=0, folder=tmp_path)
    assert data.train == [{"text": "one"}, {"text": "two"}]
    assert data.source == "some.jsonl"


def test_line_separators_inside_a_string_do_not_end_the_row(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028two\u0085three"}, {"text": "four\x0bfive"}]
    assert load_stage_data(str(write(tmp_path, rows, ensure_ascii=False)), "sft", seed=0).train == rows


@pytest.mark.parametrize("count", [1, 9, 10, 57, 2000])
def test_a_tenth_is_held_out_at_most_128_rows_and_never_trained_on(tmp_path: Path, count: int) -> None:
    rows = pairs(count)
    data = load_stage_data(str(write(tmp_path, rows)), "sft", seed=0)
    assert len(data.held_out) == min(HELD_OUT_ROWS, count // 10)
    assert sorted(map(key, [*data.train, *data.held_out])) == sorted(map(key, rows))
    assert not {key(row) for row in data.train} & {key(row) for row in data.held_out}
    assert data.train == [row for row in rows if row in data.train]  # in the file's order


@given(sizes=st.lists(st.integers(1, 30), max_size=60), seed=st.integers(0, 9))
def test_a_question_is_on_one_side_with_all_its_answers(sizes: list[int], seed: int) -> None:
    rows = [{"prompt": f"q {i}", "completion": f"a {j}"} for i, size in enumerate(sizes) for j in range(size)]
    random.Random(seed).shuffle(rows)
    train, held_out = split_held_out(rows)
    assert sorted([*train, *held_out]) == list(range(len(rows)))
    assert len(held_out) <= min(HELD_OUT_ROWS, len(rows) // 10)
    asked = [{rows[i]["prompt"] for i in side} for side in (train, held_out)]
    assert not asked[0] & asked[1]
    if len(set(sizes)) == 1 and len(rows) >= 10 * sizes[0]:
        assert held_out  # there is room for a question at least


def test_copies_of_a_row_stay_on_one_side(tmp_path: Path) -> None:
    data = load_stage_data(str(write(tmp_path, pairs(30) * 3)), "sft", seed=0)
    assert len(data.held_out) == 9
    assert len(data.train) == 81
    assert not {key(row) for row in data.train} & {key(row) for row in data.held_out}
    assert load_stage_data(str(write(tmp_path, pairs(1) * 50)), "sft", seed=0).held_out == []


def test_the_held_out_choice_depends_on_neither_order_nor_seed_nor_dropped_columns(tmp_path: Path) -> None:
    rows = pairs(200)
    first = load_stage_data(str(write(tmp_path, rows)), "sft", seed=0)
    shuffled = [{"id": i, **row} for i, row in enumerate(random.Random(0).sample(rows, len(rows)))]
    again = load_stage_data(str(write(tmp_path, shuffled)), "sft", seed=1)
    assert {key(row) for row in first.held_out} == {key(row) for row in again.held_out}
    assert first.train != again.train


def test_the_row_limit_takes_training_rows_only(tmp_path: Path) -> None:
    path = str(write(tmp_path, pairs(100)))
    whole, few = load_stage_data(path, "sft", seed=0), load_stage_data(path, "sft", seed=0, rows=7)
    assert few.train == whole.train[:7]
    assert few.held_out == whole.held_out


def test_the_digest_follows_the_rows_and_nothing_else(tmp_path: Path) -> None:
    def digest(rows: list[Row], name: str = "a.jsonl") -> str:
        return load_stage_data(str(write(tmp_path, rows, name)), "sft", seed=0).digest

    swapped = [{"completion": row["completion"], "prompt": row["prompt"]} for row in pairs(20)]
    assert digest(pairs(20)) == digest(swapped, "b.jsonl")
    assert digest(pairs(20)) != digest(pairs(21))
    assert digest(pairs(20)) != digest(pairs(20)[::-1])


MESSAGES = "a list of messages with role and content"
SFT = "prompt/completion or messages or text"
DPO = "prompt/chosen/rejected or chosen/rejected"
KTO = f"prompt/completion/label or {DPO}"


@pytest.mark.parametrize(
    ("trainer", "content", "message"),
    [
        ("sft", "", "data x.jsonl: there are no rows"),
        ("sft", "\n\n", "data x.jsonl: there are no rows"),
        (
            "sft",
            '{"text": "a"}\n\n{"text": }',
            "data x.jsonl, line 3: not JSON (Expecting value at column 10)",
        ),
        ("sft", "[1]", "data x.jsonl, line 1: a row must be a JSON object"),
        (
            "sft",
            '{"prompt": "p", "answer": "a"}',
            f"data x.jsonl: the sft trainer wants {SFT}; every row has answer, prompt; "
            f"dpo wants {DPO}, kto wants {KTO}, grpo wants prompt/answer",
        ),
        (
            "dpo",
            '{"prompt": "p", "completion": "a"}',
            f"data x.jsonl: the dpo trainer wants {DPO}; every row has completion, prompt; "
            f"sft wants {SFT}, kto wants {KTO}, grpo wants prompt/answer",
        ),
        (
            "sft",
            '{"text": "a"}\n{"prompt": "p"}',
            f"data x.jsonl: the sft trainer wants {SFT}; the rows share no column; "
            f"dpo wants {DPO}, kto wants {KTO}, grpo wants prompt/answer",
        ),
        ("sft", '{"text": "a"}\n{"text": null}', 'data x.jsonl, line 2: "text" must be text'),
        ("sft", '{"messages": "hi"}', f'data x.jsonl, line 1: "messages" must be {MESSAGES}'),
        ("sft", '{"messages": []}', f'data x.jsonl, line 1: "messages" must be {MESSAGES}'),
        ("sft", '{"messages": [{"role": "user"}]}', f'data x.jsonl, line 1: "messages" must be {MESSAGES}'),
        ("sft", '\n{"prompt": 3, "completion": "c"}', f'data x.jsonl, line 2: "prompt" must be text or {MESSAGES}'),
        (
            "sft",
            '{"prompt": "p", "completion": [{"role": "assistant", "content": "c"}]}',
            "data x.jsonl, line 1: text and messages are mixed; use one of them throughout",
        ),
        (
            "grpo",
            '{"prompt": "p", "completion": "c"}',
            "data x.jsonl: the grpo trainer wants prompt/answer; every row has completion, prompt; "
            f"sft wants {SFT}, dpo wants {DPO}, kto wants {KTO}",
        ),
        (
            "kto",
            '{"prompt": "p", "completion": "c"}',
            f"data x.jsonl: the kto trainer wants {KTO}; every row has completion, prompt; "
            f"sft wants {SFT}, dpo wants {DPO}, grpo wants prompt/answer",
        ),
        *(
            (
                "kto",
                f'{{"prompt": "p", "completion": "c", "label": 1}}\n'
                f'{{"prompt": "p", "completion": "c", "label": {cell}}}',
                'data x.jsonl, line 2: "label" must be true (a wanted completion) or false (an unwanted one)',
            )
            for cell in ("null", "2", '"true"', "[]", "0.5")
        ),
        (
            "kto",
            '{"chosen": "yes it is", "rejected": "no it is not"}',
            'data x.jsonl, line 1: "chosen" and "rejected" share no beginning to be the prompt; add a prompt column',
        ),
        *(
            (
                "sft",
                f'{{"text": "a", "{name}": null}}\n{{"text": "b", "{name}": {cell}}}',
                f"data x.jsonl: rows with {name} are not supported; remove that column",
            )
            for name, cell in (("tools", "[]"), ("images", '["x.png"]'), ("chat_template_kwargs", "{}"))
        ),
        *(
            (
                "grpo",
                f'{{"prompt": "p", "answer": "a"}}\n{{"prompt": "p", "answer": {cell}}}',
                'data x.jsonl, line 2: "answer" must be text or a number, for the verifier to compare with',
            )
            for cell in ("null", "true", '" "', "[1]")
        ),
        ("grpo", '{"prompt": 3, "answer": "a"}', f'data x.jsonl, line 1: "prompt" must be text or {MESSAGES}'),
        (
            "grpo",
            '{"prompt": "", "answer": "a"}',
            "data x.jsonl, line 1: an empty prompt, which nothing can be sampled from",
        ),
        *(
            ("sft", f'{{"messages": [{turn}]}}', f'data x.jsonl, line 1: "messages" must be {MESSAGES}')
            for turn in (
                '{"role": "user", "content": null}',
                '{"role": "user", "content": 3}',
                '{"role": 3, "content": "a"}',
            )
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, trainer: str, content: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        load_stage_data("x.jsonl", trainer, seed=0, folder=tmp_path)
    assert str(caught.value) == message


@pytest.mark.parametrize("chat", [False, True])
def test_reinforced_rows_have_no_answer_to_imitate_and_held_out_ones_have(tmp_path: Path, chat: bool) -> None:
    def asked(i: int) -> Any:
        return [{"role": "user", "content": f"question {i}"}] if chat else f"question {i}"

    rows = [{"prompt": asked(i), "answer": [i, i / 2, f"answer {i}"][i % 3], "completion": "c"} for i in range(40)]
    data = load_stage_data(str(write(tmp_path, rows)), "grpo", seed=0)
    kept = {key(row["prompt"]): str(row["answer"]) for row in rows}
    assert len(data.train) == 36
    assert all(set(row) == {"prompt", "answer"} and row["answer"] == kept[key(row["prompt"])] for row in data.train)
    for row in data.held_out:
        answer = kept[key(row["prompt"])]
        assert row["completion"] == ([{"role": "assistant", "content": answer}] if chat else answer)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as missing:
        load_stage_data("gone.jsonl", "sft", seed=0, folder=tmp_path)
    assert str(missing.value) == (
        "data gone.jsonl: no such file; give testbed:SKILL, a JSONL or Parquet file, a folder of Dataset.save_to_disk, "
        "or a hub id (owner/name)"
    )
    (tmp_path / "binary.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(UserError, match=r"^data binary.jsonl: cannot be read as UTF-8 text \([^\n]+\)$"):
        load_stage_data("binary.jsonl", "sft", seed=0, folder=tmp_path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(UserError, match=r"^data pipe.jsonl: a pipe or device; give a file"):
        load_stage_data("pipe.jsonl", "sft", seed=0, folder=tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "more": ' + "[" * 99_999 + "]" * 99_999 + "}",
        f'{{"text": "a", "more": {"1" * 5000}}}',
        '{"text": "\\ud800"}',
    ],
    ids=["nested without end", "a number without end", "half a character"],
)
def test_json_that_python_cannot_hold_is_refused_by_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(UserError, match=r"^data x.jsonl, line 2: cannot be read \([^\n]+\)$"):
        load_stage_data("x.jsonl", "sft", seed=0, folder=tmp_path)


def test_an_editors_line_ends_and_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert load_stage_data("x.jsonl", "sft", seed=0, folder=tmp_path).train == [{"text": "a"}, {"text": "b"}]


def test_a_column_that_is_null_throughout_is_as_good_as_missing(tmp_path: Path) -> None:
    rows = [{"text": "a", "tools": None, "images": None}]
    assert load_stage_data(str(write(tmp_path, rows)), "sft", seed=0).train == [{"text": "a"}]


# --- the testbed


def test_testbed_rows_are_the_skills_samples_as_chat() -> None:
    data = load_stage_data("testbed:instructions", "sft", seed=5, rows=20)
    for row, sample in zip(data.train, SKILLS["instructions"].samples("train", 20, 5), strict=True):
        assert row == {
            "prompt": [{"role": "user", "content": sample.prompt}],
            "completion": [{"role": "assistant", "content": sample.answer}],
        }


def test_plain_testbed_rows_put_the_question_on_its_own_line() -> None:
    data = load_stage_data("testbed:preferences", "dpo", seed=5, rows=5, chat=False)
    for row, sample in zip(data.train, SKILLS["preferences"].samples("train", 5, 5), strict=True):
        assert row == {"prompt": f"{sample.prompt}\n", "chosen": sample.answer, "rejected": sample.rejected}


def test_reinforced_testbed_rows_are_the_prompts_and_the_samples_as_text() -> None:
    data = load_stage_data("testbed:arithmetic", "grpo", seed=5, rows=20)
    for row, sample in zip(data.train, SKILLS["arithmetic"].samples("train", 20, 5), strict=True):
        assert row["prompt"] == [{"role": "user", "content": sample.prompt}]
        assert set(row) == {"prompt", "sample"}
        assert json.loads(row["sample"])["answer"] == sample.answer
    assert data.held_out == load_stage_data("testbed:arithmetic", "sft", seed=0, rows=1).held_out


@pytest.mark.parametrize(
    ("name", "trainer"),
    [
        ("instructions", "sft"),
        ("arithmetic", "sft"),
        ("preferences", "sft"),
        ("preferences", "dpo"),
        ("preferences", "kto"),
        ("arithmetic", "grpo"),
    ],
)
def test_the_seed_moves_the_training_rows_and_never_the_held_out_ones(name: str, trainer: str) -> None:
    one, two, other = (load_stage_data(f"testbed:{name}", trainer, seed=seed, rows=50) for seed in (1, 1, 2))
    assert one == two
    assert one.train != other.train
    assert one.held_out == other.held_out
    assert len(one.held_out) == HELD_OUT_ROWS
    assert one.digest != other.digest
    assert not {key(row["prompt"]) for row in one.train} & {key(row["prompt"]) for row in one.held_out}


def test_a_testbed_skill_has_4096_rows_unless_told_otherwise() -> None:
    assert len(load_stage_data("testbed:instructions", "sft", seed=0).train) == TESTBED_ROWS == 4096


@pytest.mark.parametrize(
    ("source", "trainer", "rows", "message"),
    [
        (
            "testbed:instruction",
            "sft",
            None,
            f'data "testbed:instruction": no such testbed skill; there are {", ".join(SKILLS)} '
            '(did you mean "instructions"?)',
        ),
        (
            "testbed:arithmetic",
            "dpo",
            None,
            'data "testbed:arithmetic" has no rejected answers: the dpo trainer needs testbed:preferences',
        ),
        (
            "testbed:arithmetic",
            "kto",
            None,
            'data "testbed:arithmetic" has no rejected answers: the kto trainer needs testbed:preferences',
        ),
        (
            "testbed:arithmetic",
            "sft",
            50_000,
            'data "testbed:arithmetic": skill arithmetic has fewer than 50000 distinct prompts in its train split; '
            "ask for fewer rows",
        ),
    ],
)
def test_a_bad_testbed_source_is_refused_in_one_line(source: str, trainer: str, rows: int | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_stage_data(source, trainer, seed=0, rows=rows)
    assert str(caught.value) == message


def test_the_dataset_holds_the_training_rows() -> None:
    data = load_stage_data("testbed:preferences", "dpo", seed=0, rows=6)
    assert list(data.dataset()) == data.train


@pytest.mark.parametrize(("name", "value"), [("split", "train"), ("subset", "main")])
def test_the_testbed_has_no_split_or_subset(name: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        load_stage_data("testbed:arithmetic", "sft", seed=0, **{name: value})
    assert str(caught.value) == f'data "testbed:arithmetic": the testbed has no {name}; remove `{name}: {value}`'
