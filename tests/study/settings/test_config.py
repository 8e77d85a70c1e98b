"""Every mistake in a study file is told in one line that names the setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from limberlm.errors import UserError
from limberlm.study import Study
from limberlm.study.settings.config import StudySettings, load_settings, study_settings

STAGE = {"trainer": "sft", "data": "testbed:instructions"}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "stages: missing"),
    ({"stages": {}}, "stages: "),
    ({"stages": {"s": STAGE}, "seed": [0]}, 'seed: unknown setting (did you mean "seeds"?)'),
    ({"stages": {"s": {**STAGE, "trainr": "sft"}}}, 'stages.s.trainr: unknown setting (did you mean "trainer"?)'),
    (
        {"stages": {"s": {**STAGE, "trainer": "stf"}}},
        'stages.s.trainer: "stf" is none of sft, dpo, kto, grpo (did you mean "sft"?)',
    ),
    ({"stages": {"s": {"trainer": "sft"}}}, "stages.s: no data: add `data:`"),
    ({"stages": {"s": {"data": "testbed:arithmetic"}}}, "stages.s.trainer: missing"),
    ({"stages": {"s": {"trainer": "sft", "data": "testbed:cipher"}}}, "data: testbed:cipher is a future task"),
    ({"stages": {"s": {**STAGE, "split": "train"}}}, "data: testbed:instructions and split or subset"),
    ({"stages": {"s": {**STAGE, "reward": "verifier"}}}, "reward: verifier and trainer: sft, which takes none"),
    ({"stages": {"s": {**STAGE, "trainer": "grpo"}}}, "trainer: grpo has no reward"),
    ({"stages": {"s": {**STAGE, "adapter": "ful"}}}, "stages.s.adapter"),
    ({"stages": {"s": {**STAGE, "adapter": {"r": 0}}}}, "stages.s.adapter.r: "),
    ({"stages": {"s": STAGE}, "orderings": [["s"], ["s"]]}, "the same ordering twice"),
    ({"stages": {"s": STAGE}, "orderings": [[]]}, "a chain without stages"),
    (
        {"stages": {"s": STAGE}, "orderings": {"permut": ["s"]}},
        'orderings.permut: unknown setting (did you mean "permute"?)',
    ),
    ({"stages": {"s": STAGE}, "orderings": {"permute": ["s"]}}, "permute: s alone has no other order"),
    ({"stages": {"s": STAGE}, "orderings": {"fixed_first": ["s"], "permute": ["s", "t"]}}, "fixed_first and permute"),
    (
        {"stages": {"s": STAGE, "t": STAGE}, "orderings": {"permute": ["s", "t"], "design": "latin"}},
        "no such design: latin",
    ),
    ({"stages": {"s": STAGE}, "orderings": {"fixed_first": ["s"], "fixed_last": ["u"]}}, 'no stage is called "u"'),
    (
        {"stages": {"s": STAGE}, "interventions": {"none": [{"args": {"max_steps": 1}}]}},
        '"none" is the arm that changes',
    ),
    (
        {"stages": {"s": STAGE}, "interventions": {"low": [{}]}},
        "interventions.low.0: says nothing: give args, or ",
    ),
    ({"stages": {"s": STAGE}, "interventions": {"low": [{"args": {}}]}}, "interventions.low.0: says nothing"),
    (
        {"stages": {"s": STAGE}, "interventions": {"low": [{"args": {"max_steps": 1}, "stages": ["t"]}]}},
        'interventions.low: no stage is called "t"',
    ),
    ({"stages": {"s": STAGE}, "controls": ["zero"]}, 'controls.0: "zero" is none of zero_learning_rate'),
    ({"stages": {"s": STAGE}, "controls": ["joint", "joint"]}, "controls: the same one twice"),
    ({"stages": {"s": {**STAGE, "rows": 0}}}, "stages.s.rows: "),
    ({"stages": {"base": STAGE}}, "call the stage something else"),
    ({"stages": {"a/b": STAGE}}, "stages.a/b"),
    ({"stages": {"s": STAGE}, "orderings": [["t"]]}, 'no stage is called "t"'),
    ({"stages": {"s": STAGE}, "seeds": [1, 1]}, "seeds: the same one twice"),
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


def every_setting(model: type[BaseModel], path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The full name of every setting there is, as a path through the YAML."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        members = union_members(field.annotation)
        inner = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
        if inner is not None:
            where = {"stages": ("s",), "interventions": ("low", 0), "lm_eval": (0,)}.get(name, ())
            yield from every_setting(inner, (*path, name, *where))


def union_members(annotation: Any) -> set[Any]:
    found = {annotation}
    for inner in get_args(annotation):
        found |= union_members(inner)
    return found


EVERY = sorted(set(every_setting(StudySettings)), key=str)


def broken(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A valid study with one setting replaced."""
    content: dict[str, Any] = {
        "stages": {"s": {**STAGE, "adapter": {}}},
        "interventions": {"low": [{"args": {"max_steps": 1}}]},
        "adapter": {},
        "orderings": {"fixed_first": ["s"]},
        "measure": {},
        "outcomes": {"plasticity": {}, "lm_eval": [{"task": "x"}]},
    }
    inside: Any = content
    for part in path[:-1]:
        if isinstance(inside, dict):
            inside.setdefault(part, {})
        inside = inside[part]
    inside[path[-1]] = value
    return content


def test_the_table_of_settings_is_whole() -> None:
    assert len(EVERY) > 40


@pytest.mark.parametrize("path", EVERY, ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("value", [{"no": {"such": "thing"}}, [[["deep"]]], -1.5], ids=["mapping", "list", "number"])
def test_every_setting_of_a_wrong_type_is_told_in_one_line(path: tuple[str | int, ...], value: Any) -> None:
    if (path[-1] in ("args", "gen_kwargs") and isinstance(value, dict)) or (path[-1] == "threshold" and value == -1.5):
        return  # no wrong type there: any mapping, and a loss may be any number
    with pytest.raises(UserError) as caught:
        study_settings({"name": "x", **broken(path, value)}, "study.yaml")
    assert str(caught.value).startswith(f"study.yaml: {path[0]}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", EVERY, ids=lambda path: ".".join(map(str, path)))
def test_every_setting_misspelt_is_told_its_name(path: tuple[str | int, ...]) -> None:
    wrong = f"{path[-1]}x"
    with pytest.raises(UserError) as caught:
        study_settings({"name": "x", **broken((*path[:-1], wrong), 1)}, "study.yaml")
    assert f'{wrong}: unknown setting (did you mean "{path[-1]}"?)' in str(caught.value)


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_setting_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        study_settings({"name": "x", **content}, "study.yaml")
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


@pytest.mark.parametrize(("names", "controls"), [(["s" * 151], []), (["s" * 80, "t" * 80], ["joint"])])
def test_a_stage_whose_name_no_folder_can_have_is_refused(
    make_study: Callable[..., Path], names: list[str], controls: list[str]
) -> None:
    stages = {name: STAGE | {"rows": 16, "args": {"max_steps": 1}} for name in names}
    with pytest.raises(UserError, match=r"^stages: [st]{40}\.\.\. is too long to name a folder; at most 150"):
        Study.load(make_study(stages=stages, controls=controls)).plan()


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
