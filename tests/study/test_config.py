"""Every mistake in a study file is told in one line that names the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.study import Study
from limberlm.study.config import load_settings, parse_settings

STAGE = {"trainer": "sft", "data": "testbed:instructions"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "stages: missing"),
    ({"stages": {}}, "stages: "),
    ({"stages": {"s": STAGE}, "seed": [0]}, 'seed: unknown setting (did you mean "seeds"?)'),
    ({"stages": {"s": {**STAGE, "trainr": "sft"}}}, 'stages.s.trainr: unknown setting (did you mean "trainer"?)'),
    (
        {"stages": {"s": {**STAGE, "trainer": "stf"}}},
        'unknown trainer "stf"; there are sft, dpo, grpo (did you mean "sft"?)',
    ),
    ({"stages": {"s": {"trainer": "sft"}}}, "stages.s.data: missing"),
    ({"stages": {"s": {**STAGE, "rows": 0}}}, "stages.s.rows: "),
    ({"stages": {"base": STAGE}}, "call the stage something else"),
    ({"stages": {"a/b": STAGE}}, "stages.a/b"),
    ({"stages": {"s": STAGE}, "orderings": [["t"]]}, 'no stage is called "t"'),
    ({"stages": {"s": STAGE}, "seeds": [1, 1]}, "the same seed twice"),
    ({"stages": {"s": STAGE}, "seeds": []}, "seeds: "),
    ({"stages": {"s": STAGE}, "adapter": {"r": 0}}, "adapter.r: "),
    (
        {"stages": {"s": STAGE}, "adapter": {"lora_alfa": 1}},
        'adapter.lora_alfa: unknown setting (did you mean "lora_alpha"?)',
    ),
    ({"stages": {"s": STAGE}, "hand_over": "glue"}, "hand_over: "),
    ({"stages": {"s": STAGE}, "outcomes": {"skills": ["cooking"]}}, "no such testbed skill: cooking"),
    ({"stages": {"s": STAGE}, "outcomes": {"plasticity": {"steps": 0}}}, "outcomes.plasticity.steps: "),
    ({"stages": {"s": STAGE}, "measure": {"max_length": 1}}, "measure.max_length: "),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_setting_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_settings({"name": "x", **content}, "study.yaml")
    assert str(caught.value).startswith("study.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


IN_STAGES: list[tuple[dict[str, Any], str]] = [
    (
        {"args": {"learning_rat": 1e-3}},
        'stages.s.args.learning_rat: SFTConfig has no such setting (did you mean "learning_rate"?)',
    ),
    ({"args": {"max_steps": "many"}}, "stages.s.args.max_steps: 'many' is wrong"),
    ({"args": {"seed": 3}}, "stages.s.args.seed: the study decides this one"),
    ({"args": {"eval_strategy": "sometimes"}}, "stages.s.args"),
    ({"data": "testbed:instruction"}, "no such testbed skill; there are instructions"),
    ({"data": "nothing.jsonl"}, "nothing.jsonl: no such file"),
    ({"trainer": "dpo"}, "the dpo trainer needs testbed:preferences"),
    ({"data": "testbed:arithmetic", "rows": 10**6}, "ask for fewer rows"),
]


@pytest.mark.parametrize(("change", "message"), IN_STAGES, ids=[message for _, message in IN_STAGES])
def test_a_wrong_stage_is_found_before_anything_is_trained(
    make_study: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    study = Study.load(make_study(stages={"s": STAGE | change}))
    with pytest.raises(UserError) as caught:
        study.plan()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_yaml_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\nstages:\n  s: {trainer: sft, data: [}\n")
    with pytest.raises(UserError, match=r"s\.yaml, line 3: not valid YAML"):
        load_settings(path)


def test_a_missing_study_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: no such study file"):
        load_settings(tmp_path / "gone.yaml")


def test_the_name_defaults_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "first.yaml"
    path.write_text("stages: {s: {trainer: sft, data: 'testbed:instructions'}}\n")
    assert load_settings(path).name == "first"
