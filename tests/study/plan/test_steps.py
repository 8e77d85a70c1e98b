"""Arms and controls: which chains a study file stands for, and what each of them changes."""

from __future__ import annotations

from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.study.plan.cost import Cost
from limberlm.study.plan.steps import Course, Step, courses
from limberlm.study.settings.config import StudySettings, study_settings


def study(**changes: Any) -> StudySettings:
    args = {"max_steps": 10, "learning_rate": 1e-3}
    sft = {"trainer": "sft", "args": args}
    stages = {
        "sft": sft | {"data": "testbed:instructions"},
        "math": sft | {"data": "testbed:arithmetic", "args": args | {"max_steps": 30}},
        "dpo": {"trainer": "dpo", "data": "testbed:preferences", "args": args | {"max_steps": 5}},
    }
    return study_settings({"stages": stages} | changes, "study.yaml")


def chains(settings: StudySettings) -> list[Course]:
    """Every step sees 16 rows of as many tokens as its stage's name is long."""
    steps = lambda step: int(step.stage.args["max_steps"])  # noqa: E731
    return courses(settings, lambda step: Cost(steps(step), 16 * steps(step), 16 * steps(step) * len(step.name)))


def only(settings: StudySettings, control: str) -> list[Course]:
    return [course for course in chains(settings) if course.control == control]


def args(step: Step) -> dict[str, Any]:
    return step.stage.args


def test_every_ordering_is_run_under_every_arm() -> None:
    arms = {
        "none": [],
        "low": [{"args": {"learning_rate": 1e-5}}],
        "dpo_low": [{"args": {"beta": 0.3}, "stages": ["dpo"]}],
    }
    found = chains(study(interventions=arms, orderings=[["sft", "dpo"], ["dpo", "sft"]]))
    assert [course.name for course in found] == [
        "sft > dpo",
        "dpo > sft",
        "sft > dpo [low]",
        "dpo > sft [low]",
        "sft > dpo [dpo_low]",
        "dpo > sft [dpo_low]",
    ]
    plain, low, beta = found[0].steps, found[2].steps, found[4].steps
    assert [args(step)["learning_rate"] for step in low] == [1e-5, 1e-5]
    assert beta[0] == plain[0]
    assert args(beta[1]) == args(plain[1]) | {"beta": 0.3}


def test_without_learning_rate_the_first_stage_stands_alone() -> None:
    (course,) = only(study(controls=["zero_learning_rate"]), "zero_learning_rate")
    assert [step.label for step in course.steps] == ["sft.zero"]
    assert args(course.steps[0])["learning_rate"] == 0


def test_every_stage_has_a_random_twin_from_the_same_start() -> None:
    settings = study(controls=["random_adapter"])
    trained = chains(settings)[0].steps
    found = only(settings, "random_adapter")
    assert [[step.label for step in course.steps] for course in found] == [
        ["sft.random"],
        ["sft", "math.random"],
        ["sft", "math", "dpo.random"],
    ]
    for index, course in enumerate(found):
        assert course.steps[:-1] == trained[:index]
        assert course.steps[-1].random


def test_the_repeated_stage_fills_the_chain_with_new_rows_each_time() -> None:
    (course,) = only(study(controls=["repeat"]), "repeat")
    assert [(step.label, step.occurrence) for step in course.steps] == [("sft", 0), ("sft", 1), ("sft", 2)]


def test_the_joint_stage_takes_the_supervised_ones_and_their_steps_together() -> None:
    (course,) = only(study(controls=["joint"]), "joint")
    (step,) = course.steps
    assert step.joined == ("math", "sft")
    assert args(step)["max_steps"] == 40


def test_joint_is_refused_where_there_is_nothing_to_join() -> None:
    with pytest.raises(UserError, match="controls: joint needs two stages of trainer sft in sft > dpo"):
        chains(study(controls=["joint"], orderings=[["sft", "dpo"]]))


def test_the_last_stage_alone_is_as_long_as_the_chain() -> None:
    (course,) = only(study(controls=["equal_tokens"]), "equal_tokens")
    (step,) = course.steps
    assert step.label == "dpo.equal"
    # 10 steps of 3, 30 of 4 and 5 of 3 letters a row are 165, and 165 / 3 steps of the last see as many
    assert args(step)["max_steps"] == 55


def test_full_weights_take_a_tenth_of_the_learning_rate() -> None:
    (course,) = only(study(controls=["full"]), "full")
    assert [step.adapter for step in course.steps] == ["full"] * 3
    assert [args(step)["learning_rate"] for step in course.steps] == pytest.approx([1e-4] * 3)
    with pytest.raises(UserError, match='stage "sft" trains all weights already'):
        chains(study(controls=["full"], adapter="full"))


def test_a_control_that_orderings_share_is_run_once() -> None:
    settings = study(controls=["zero_learning_rate", "random_adapter"], orderings=[["sft", "math"], ["sft", "dpo"]])
    assert len(only(settings, "zero_learning_rate")) == 1
    assert [course.steps[-1].label for course in only(settings, "random_adapter")] == [
        "sft.random",
        "math.random",
        "dpo.random",
    ]
