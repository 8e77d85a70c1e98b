"""What several seeds say together: one run is one run, and a claim takes the same pattern in three."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from limberlm.analysis import Phases, agreement, find_phases
from limberlm.errors import UserError
from tests.analysis.curves import noisy, steps


def run(name: str, repetition: int) -> Phases:
    return find_phases(steps(30), noisy(name, 30, 0.02, repetition), warmup_end=3, resamples=39)


@pytest.fixture(scope="module")
def runs() -> list[Phases]:
    return [run("F R F", repetition) for repetition in range(3)]


def test_one_pattern_in_three_seeds_is_a_claim(runs: list[Phases]) -> None:
    found = agreement(runs)
    assert found.agrees
    assert (found.pattern, found.labels) == ("F R F", ("warmup", "entropy-seeking", "compression-seeking"))
    assert found.sentence.startswith("F R F in each of 3 seeds, turning points at ")
    assert found.sentence.endswith(": warmup, entropy-seeking, compression-seeking.")


def test_turning_points_are_listed_seed_by_seed_never_averaged(runs: list[Phases]) -> None:
    assert agreement(runs).turns == tuple(tuple(turn.step for turn in one.turns) for one in runs)


def test_two_seeds_or_one_are_no_claim(runs: list[Phases]) -> None:
    two, one = agreement(runs[:2]), agreement(runs[:1])
    assert not two.agrees
    assert not one.agrees
    assert two.sentence.endswith("a claim needs 3 seeds.")
    assert one.sentence.startswith("In this run: three phases found")
    assert one.sentence.endswith("One seed only: no claim about others.")


def test_another_pattern_in_one_seed_is_no_claim(runs: list[Phases]) -> None:
    found = agreement([*runs, run("F R", 0)])
    assert (found.agrees, found.pattern) == (False, "")
    assert found.patterns == ("F R F",) * 3 + ("F R",)
    assert "no phase can be claimed" in found.sentence


def test_another_label_in_one_seed_is_no_claim(runs: list[Phases]) -> None:
    late = replace(runs[2], swings=(replace(runs[2].swings[0], label="other"), *runs[2].swings[1:]))
    found = agreement([*runs[:2], late])
    assert (found.agrees, found.pattern, found.labels) == (False, "F R F", ())
    assert "the labels differ" in found.sentence


def test_no_phase_in_any_seed_is_said_so() -> None:
    found = agreement([run("flat", repetition) for repetition in range(3)])
    assert not found.agrees
    assert found.sentence == "No phase was found in any of 3 seeds (no phase found)."


def test_patterns_that_mean_the_same_are_still_not_one(runs: list[Phases]) -> None:
    other = replace(runs[0], pattern="R F R F")
    assert "each is called: three phases found" in agreement([*runs, other]).sentence


def test_it_survives_json(runs: list[Phases]) -> None:
    record = json.loads(json.dumps(agreement(runs).as_dict(), allow_nan=False))
    assert record["patterns"] == ["F R F"] * 3
    assert record["agrees"] is True


def test_no_run_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="no run was given"):
        agreement([])
