"""Exported files hold the samples a study would train on, load as TRL's formats, and are whole or not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from datasets import load_dataset

from limberlm.errors import UserError
from limberlm.stages.data import sample_row
from limberlm.stages.verifier import cell_sample, sample_cell
from limberlm.testbed import SKILLS, SPLITS
from limberlm.testbed.export import FORMATS, export, export_rows

EACH = pytest.mark.parametrize("skill", SKILLS)


@EACH
@pytest.mark.parametrize("chat", [True, False])
def test_rows_are_those_a_stage_trains_on(skill: str, chat: bool) -> None:
    forms = ("sft", "dpo") if SKILLS[skill].kind == "dpo" else ("sft",)
    for split in SPLITS:
        samples = SKILLS[skill].samples(split, 25, seed=3)
        for form in forms:
            rows = list(export_rows(skill, split, form, 25, seed=3, chat=chat))
            assert rows == [sample_row(sample, form, chat) for sample in samples]


@EACH
def test_a_grpo_row_brings_all_that_the_verifier_needs(skill: str) -> None:
    samples = SKILLS[skill].samples("train", 25)
    for row, sample in zip(export_rows(skill, form="grpo", count=25), samples, strict=True):
        assert list(row) == FORMATS["grpo"].split(", ")
        assert row["sample"] == sample_cell(sample)
        assert SKILLS[row["skill"]].verify(cell_sample(row["sample"]), row["answer"])
        assert not SKILLS[row["skill"]].verify(cell_sample(row["sample"]), row["answer"] + " and 999")


@EACH
def test_a_choices_row_points_at_the_answer(skill: str) -> None:
    samples = SKILLS[skill].samples("multiple_choice", 25)
    for row, sample in zip(export_rows(skill, "multiple_choice", "choices", 25), samples, strict=True):
        assert row["question"] == sample.prompt
        assert len(row["choices"]) == 4
        right = [SKILLS[skill].verify(sample, choice) for choice in row["choices"]]
        assert right == [index == row["answer"] for index in range(4)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("chat", [True, False])
def test_a_file_comes_back_through_datasets(tmp_path: Path, form: str, chat: bool) -> None:
    skill, split = ("preferences", "train") if form == "dpo" else ("programs", "multiple_choice")
    path = tmp_path / "rows.jsonl"
    export(path, skill, split, form, 60, chat=chat)
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == FORMATS[form].split(", ")
    assert loaded.to_list() == list(export_rows(skill, split, form, 60, chat=chat))


def test_repeats_are_the_stream_and_distinct_prompts_the_default() -> None:
    prompts = [row["prompt"] for row in export_rows("arithmetic", count=3000, chat=False, repeats=True)]
    assert prompts == [s.prompt + "\n" for s in islice(SKILLS["arithmetic"].stream("train"), 3000)]
    assert len(set(prompts)) < 3000
    assert len({row["prompt"] for row in export_rows("arithmetic", count=3000, chat=False)}) == 3000


def test_progress_ends_at_the_rows_asked_for(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    export(tmp_path / "rows.jsonl", "cipher", count=2500, progress=lambda *what: told.append(what))
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2500


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"skill": "arithmetics"}, 'no such skill: arithmetics \\(did you mean "arithmetic"\\?\\)'),
        ({"split": "test"}, "no such split: test; there are train, in_domain, out_of_domain, multiple_choice"),
        ({"form": "sfts"}, 'no such format: sfts \\(did you mean "sft"\\?\\)'),
        ({"count": 0}, "rows: 0; ask for at least one"),
        ({"form": "dpo"}, "arithmetic has no rejected answers: the dpo format is for preferences"),
        ({"form": "choices"}, "the train split has no options"),
        ({"count": 20_000, "split": "in_domain"}, r"arithmetic gave \d+ distinct prompts of its in_domain split"),
    ],
    ids=lambda given: str(given)[:30],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    tmp_path: Path, given: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limberlm.testbed.export.EXHAUSTED", 10)
    with pytest.raises(UserError, match=message) as refused:
        export(tmp_path / "rows.jsonl", **({"skill": "arithmetic"} | given))
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_request_is_refused_before_the_first_row() -> None:
    with pytest.raises(UserError, match="no such split"):
        export_rows("arithmetic", "test")


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"rows\.jsonl: exists already"):
        export(tmp_path / "rows.jsonl", "arithmetic")
    assert (tmp_path / "rows.jsonl").read_text() == "mine"
    with pytest.raises(UserError, match="no such folder"):
        export(tmp_path / "gone" / "rows.jsonl", "arithmetic")


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "rows.jsonl", "arithmetic", count=2000, progress=stop)
    assert list(tmp_path.iterdir()) == []


PEAK = """
import sys
from pathlib import Path
from benchmarks.harness import peak_memory
from limberlm.testbed.export import export
export(Path(sys.argv[1]) / "rows.jsonl", "instructions", count=int(sys.argv[2]))
print(peak_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(folder), str(count)], capture_output=True, text=True, check=True
        )
        assert sum(1 for _ in (folder / "rows.jsonl").open()) == count
        return int(done.stdout)

    few, many = peak(20_000), peak(200_000)  # 25 MB of rows more
    assert many - few < 2**21


TRAINERS = {"sft": "instructions", "dpo": "preferences", "grpo": "arithmetic"}


@pytest.mark.slow
@pytest.mark.parametrize("form", TRAINERS)
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_trl_trains_on_the_file(
    tmp_path: Path, tiny_model_folder: Path, form: str, chat: bool, trl_step: Callable[..., float]
) -> None:
    path = tmp_path / "rows.jsonl"
    export(path, TRAINERS[form], form=form, count=32, chat=chat)
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert trl_step(form, loaded) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", TRAINERS)
def test_a_stage_of_a_study_trains_on_the_file(tmp_path: Path, tiny_model_folder: Path, form: str) -> None:
    from tests.stages.runs import run_stage

    path = tmp_path / "rows.jsonl"
    export(path, TRAINERS[form], form=form, count=64)
    run = run_stage(tiny_model_folder, tmp_path / "adapter", form, data=str(path))
    assert len(run.training) == 2


@pytest.fixture
def trl_step(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., float]:
    """One optimiser step of TRL's own trainer on a data set, with its reward read from the rows; the steps taken."""
    import trl
    from transformers import AutoTokenizer, LlamaForCausalLM

    def reward(completions: list, sample: list[str], skill: list[str], **_: object) -> list[float]:
        texts = [said if isinstance(said, str) else said[-1]["content"] for said in completions]
        return [
            float(SKILLS[s].verify(cell_sample(cell), text)) for s, cell, text in zip(skill, sample, texts, strict=True)
        ]

    def step(form: str, rows: object) -> float:
        name = form.upper()
        extra = {"num_generations": 4, "max_completion_length": 8} if form == "grpo" else {}
        config = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path / "trainer"),
            max_steps=1,
            per_device_train_batch_size=4,
            report_to="none",
            use_cpu=True,
            bf16=False,
            save_strategy="no",
            disable_tqdm=True,
            **extra,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            model=LlamaForCausalLM.from_pretrained(tiny_model_folder),
            args=config,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
            **({"reward_funcs": reward} if form == "grpo" else {}),
        )
        return trainer.train().global_step

    return step
