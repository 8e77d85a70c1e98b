"""A policy says what it means, or is refused in one line that names the file and the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limberlm.analysis.gate.policy import Criterion, Policy, example, policy_of
from limberlm.errors import UserError
from limberlm.geometry import HEADLINE

FINE = {"metric": "effective_rank", "margin": 0.1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("criteria: []", "criteria: none: a gate that asks for nothing would pass everything; add one"),
        ("confidence: 0.9", "criteria: missing"),
        (
            "criteria:\n- {metric: efective_rank, margin: 1}",
            'no such metric: "efective_rank" (did you mean "effective_',
        ),
        ("criteria:\n- {metric: srank, margin: 1}", '"srank" has no interval'),
        ("criteria:\n- {metric: effective_rank}", "criteria.0.margin: missing"),
        ("criteria:\n- {metric: effective_rank, margin: -1}", "criteria.0.margin: -1 is neither a number above 0"),
        ("criteria:\n- {metric: effective_rank, margin: 0}", "criteria.0.margin: 0 is neither a number above 0"),
        ("criteria:\n- {metric: effective_rank, margin: 0 %}", "criteria.0.margin: '0 %' is neither a number above 0"),
        ("criteria:\n- {metric: effective_rank, margin: -5 %}", "criteria.0.margin: '-5 %' is neither"),
        ("criteria:\n- {metric: effective_rank, margin: five}", "criteria.0.margin: 'five' is neither"),
        ("criteria:\n- {metric: effective_rank, margin: true}", "criteria.0.margin: True is neither"),
        ("criteria:\n- {metric: effective_rank, margin: 1, harmful: sideways}", '"sideways" is none of up, down, both'),
        ("criteria:\n- {margin: 1}", "criteria.0: give either a metric or an outcome"),
        ("criteria:\n- {metric: rankme, outcome: loss, task: a, margin: 1}", "give either a metric or an outcome"),
        ("criteria:\n- {outcome: loss, margin: 1}", "criteria.0: outcome: loss without a task: add `task:`"),
        ("criteria:\n- {metric: rankme, task: a, margin: 1}", "criteria.0: metric and task do not go together"),
        ("criteria:\n- {outcome: loss, task: a, site: band, margin: 1}", "outcome and site do not go together"),
        ("criteria:\n- {metric: rankme, margin: 1, sight: band}", 'unknown setting (did you mean "site"?)'),
        ("criteria:\n- {metric: rankme, margin: 1}\n- {metric: rankme, margin: 2}", "is there twice; remove one"),
        ("confidence: 1\ncriteria:\n- {metric: rankme, margin: 1}", "confidence: Input should be less than 1"),
        ("confidence: 0.2\ncriteria:\n- {metric: rankme, margin: 1}", "confidence: Input should be greater than"),
        ("- a", "a policy file is a mapping from settings to values"),
        ("criteria: [", "line 1: not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        policy_of(path)
    told = str(caught.value)
    assert told.startswith(str(path))
    assert problem in told
    assert "\n" not in told


def test_the_default_policy_asks_for_the_headline_metrics() -> None:
    policy = policy_of(None)
    assert tuple(criterion.metric for criterion in policy.criteria) == HEADLINE
    assert policy == policy_of({"criteria": [c.model_dump() for c in policy.criteria]})
    assert policy.level == pytest.approx(1 - 0.05 / 5)
    assert "outcome" in example()


@pytest.mark.parametrize(
    ("given", "harmful"),
    [
        ({"metric": "effective_rank"}, "down"),
        ({"metric": "anisotropy"}, "up"),
        ({"metric": "effective_rank", "harmful": "both"}, "both"),
        ({"metric": "cka"}, "both"),
        ({"outcome": "accuracy", "task": "a"}, "down"),
        ({"outcome": "choice_accuracy_summed", "task": "a"}, "down"),
        ({"outcome": "loss", "task": "a"}, "up"),
        ({"outcome": "refusal_verifier", "task": "a"}, "both"),
    ],
)
def test_which_way_is_harmful_where_the_policy_is_silent(given: dict[str, Any], harmful: str) -> None:
    assert Criterion(**given, margin=1).worse == harmful


def test_where_a_metric_is_read_where_the_policy_is_silent() -> None:
    assert Criterion(metric="effective_rank", margin=1).read_at == ("effective_rank", "band", "rms")
    assert Criterion(metric="entropy_median", margin=1).read_at[1] == "logits"
    assert Criterion(metric="rankme", site="block.0", convention="raw", margin=1).name == "rankme, block.0, raw"


def test_percentages() -> None:
    assert Criterion(**FINE).share is None
    assert [Criterion(metric="rankme", margin=text).share for text in ("5 %", "5%", " .5 % ", "150 %")] == [
        0.05,
        0.05,
        0.005,
        1.5,
    ]


def test_a_policy_survives_its_own_json() -> None:
    policy = policy_of(None)
    assert Policy.model_validate(policy.model_dump(mode="json")) == policy
