"""Settings mean what a study file says, and refuse what they cannot mean."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from limberlm.outcomes.plasticity import FUTURE_TASKS, PlasticitySettings, RandomLabelSettings, ReadinessSettings
from limberlm.study.settings.config import study_settings
from limberlm.testbed import SKILLS


def test_the_future_tasks_are_those_no_chain_teaches() -> None:
    assert FUTURE_TASKS == ("codebook", "cipher", "modular_map", "records")
    assert {SKILLS[name].kind for name in FUTURE_TASKS} == {"future"}


@pytest.mark.parametrize(
    ("written", "tasks"),
    [
        ({}, ("codebook",)),
        ({"tasks": 3}, ("codebook", "cipher", "modular_map")),
        ({"tasks": ["records", "cipher"]}, ("records", "cipher")),
        ({"tasks": "records"}, ("records",)),
        ({"task": "cipher"}, ("cipher",)),
    ],
)
def test_tasks_by_name_or_number(written: dict[str, Any], tasks: tuple[str, ...]) -> None:
    assert PlasticitySettings(**written).tasks == tasks


@pytest.mark.parametrize(
    ("written", "rates"), [(2e-3, (2e-3,)), ([1e-3, 4e-3], (1e-3, 4e-3)), ("1e-3", (1e-3,)), ([5e-4], (5e-4,))]
)
def test_one_rate_or_a_sweep(written: Any, rates: tuple[float, ...]) -> None:
    assert PlasticitySettings(learning_rate=written).rates == rates


def test_true_and_false_switch_on_the_defaults() -> None:
    on = PlasticitySettings(random_labels=True, readiness=True)
    assert (on.random_labels, on.readiness) == (RandomLabelSettings(), ReadinessSettings())
    off = PlasticitySettings(random_labels=False, readiness=False)
    assert (off.random_labels, off.readiness) == (None, None)


def test_settings_survive_being_written_down() -> None:
    settings = PlasticitySettings(
        tasks=2, learning_rate=[1e-3, 2e-3], random_labels=True, readiness={"curvature": True}
    )
    assert PlasticitySettings.model_validate_json(settings.model_dump_json()) == settings
    assert PlasticitySettings(**settings.model_dump()) == settings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"every": 0}, "every"),
        ({"items": 1}, "items"),
        ({"items": 10**6}, "items"),
        ({"step": 3}, "step"),
        ({"learning_rate": 0}, "learning_rate.*above 0"),
        ({"learning_rate": []}, "learning_rate.*above 0"),
        ({"learning_rate": [1e-3, 1e-3]}, "learning_rate.*different"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"tasks": 0}, "there are 4 future tasks"),
        ({"tasks": 5}, "there are 4 future tasks"),
        ({"tasks": ["cypher"]}, 'did you mean "cipher"'),
        ({"tasks": ["arithmetic"]}, 'no future task is called "arithmetic"'),
        ({"tasks": ["cipher", "cipher"]}, "the same task twice"),
        ({"tasks": []}, "nothing to learn"),
        ({"task": "cipher", "tasks": ["cipher"]}, "give tasks alone"),
        ({"random_labels": {"symbols": 1}}, "symbols"),
        ({"readiness": {"micro_batches": 3}}, "micro_batches"),
    ],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        PlasticitySettings(**wrong)


def test_a_study_file_may_say_all_of_it() -> None:
    asked = {"tasks": 3, "steps": 60, "learning_rate": [5e-4, 2e-3], "readiness": True, "random_labels": {"symbols": 4}}
    study = {"stages": {"sft": {"trainer": "sft", "data": "testbed:arithmetic"}}, "outcomes": {"plasticity": asked}}
    found = study_settings(study, "study.yaml").outcomes.plasticity
    assert found == PlasticitySettings(**asked)
