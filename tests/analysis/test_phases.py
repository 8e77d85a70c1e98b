"""Phases on trajectories whose phases are known, on none, on noise, and on what nobody should hand in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from limberlm.analysis import Phases, find_phases
from limberlm.errors import UserError
from tests.analysis.curves import (
    KNOTS,
    LAST,
    MONOTONE,
    PILOT_ALPHA,
    PILOT_HEAD_REMOVED,
    PILOT_RANK,
    PILOT_STEPS,
    PILOT_WARMUP,
    Floats,
    curve,
    noisy,
    patterns,
    steps,
    with_outlier,
)

every = pytest.mark.parametrize("name", KNOTS)
SEEDS, ENOUGH = 20, 18


def phases(values: Floats, **settings: Any) -> Phases:
    return find_phases(steps(len(values)), values, **settings)


def clean(name: str, repetition: int) -> bool:
    return phases(noisy(name, 30, 0.03, repetition)).pattern in patterns(name)


def spoiled(name: str, repetition: int) -> tuple[bool, bool]:
    """Whether the pattern is right in spite of an outlier, and whether that is named."""
    values, place = with_outlier(name, 30, 0.03, repetition)
    found = phases(values)
    return found.pattern in patterns(name), steps(30)[place] in found.outliers


# --- the acceptance rows


@every
def test_known_phases_are_found_in_two_seeds(name: str) -> None:
    assert [clean(name, repetition) for repetition in range(2)] == [True] * 2


@pytest.mark.slow
@every
def test_known_phases_are_found_in_eighteen_of_twenty_seeds(name: str) -> None:
    assert sum(clean(name, repetition) for repetition in range(SEEDS)) >= ENOUGH


@every
def test_an_outlier_changes_no_pattern(name: str) -> None:
    right, named = spoiled(name, 0)
    assert right
    assert named or name not in MONOTONE


@pytest.mark.slow
@every
def test_an_outlier_changes_no_pattern_in_eighteen_of_twenty_seeds(name: str) -> None:
    found = [spoiled(name, repetition) for repetition in range(SEEDS)]
    assert sum(right for right, _ in found) >= ENOUGH
    assert sum(named for _, named in found) >= ENOUGH or name not in MONOTONE


def test_eight_checkpoints_are_too_few() -> None:
    found = find_phases(steps(8), curve("F R F", 8), warmup_end=5)
    assert found.answer == "undetermined: too few checkpoints"
    assert found.verdict == "Undetermined: too few checkpoints: 8, and three phases need 9."
    assert (found.pattern, found.swings, found.checkpoints) == ("", (), 8)
    assert find_phases(steps(9), curve("F R", 9)).answer != found.answer


def test_large_noise_is_told_from_no_phase() -> None:
    loud, quiet = (phases(noisy("flat", 30, deviation, 0)) for deviation in (0.3, 0.02))
    assert loud.answer == "undetermined: noise too large"
    assert loud.verdict == (
        f"Undetermined: noise too large: only changes of ln effective rank beyond {3 * loud.sigma:.2f} could be seen."
    )
    assert quiet.answer == "no phase found"
    assert loud.visible == 3 * loud.sigma == pytest.approx(0.9, rel=0.5)


@pytest.fixture(scope="module")
def pilot() -> Phases:
    return find_phases(
        PILOT_STEPS,
        np.log(PILOT_RANK),
        alpha=PILOT_ALPHA,
        head_removed=np.log(PILOT_HEAD_REMOVED),
        warmup_end=PILOT_WARMUP,
    )


def test_a_pilot_has_warmup_and_entropy_seeking_and_no_compression(pilot: Phases) -> None:
    assert pilot.pattern in ("F R", "R F R")
    assert pilot.spans == (("warmup", 0, 35), ("entropy-seeking", 35, 1000))
    assert pilot.answer == "no compression found in this series"
    assert pilot.limit == 120
    assert pilot.verdict.startswith("In this run: no compression found in this series: warmup to step 35 (")
    assert pilot.verdict.endswith("entropy-seeking to step 1,000.")
    assert [swing.change for swing in pilot.swings][-1] == pytest.approx(3.41, abs=0.1)


def test_in_the_pilot_alpha_and_the_rank_behind_the_head_lag(pilot: Phases) -> None:
    assert [swing.alpha_agrees for swing in pilot.swings][-1] == "lagged"
    assert [swing.head_only for swing in pilot.swings] == [False] * len(pilot.swings)
    assert [turn.step for turn in pilot.alpha_turns or ()] == [152]
    assert [turn.step for turn in pilot.head_removed_turns or ()] == [100]


# --- nothing to find


@pytest.mark.slow
def test_noise_about_a_constant_is_seldom_a_phase() -> None:
    found = [phases(noisy("flat", 30, 0.03, repetition)).pattern for repetition in range(100, 300)]
    assert sum(map(bool, found)) <= 8  # of 200; about 2 expected (the documentation's page has the rates)


def test_a_run_that_learns_nothing_has_no_phase() -> None:
    found = find_phases([0, 1, 2, 5, 10, 20, 50, 100, 200, 500], [3.2] * 10, [[3.2] * 10] * 16)
    assert (found.answer, found.pattern, found.p_values[0]) == ("no phase found", "", 1.0)


def test_shuffled_checkpoints_have_no_phase() -> None:
    for seed in range(2):
        values = np.random.default_rng(seed).permutation(noisy("F R F", 30, 0.03, seed))
        found = phases(values)
        assert found.pattern == ""
        assert found.answer == "undetermined: noise too large"


# --- the answer


def test_three_phases_in_words() -> None:
    found = phases(noisy("F R F", 40, 0.02, 1), warmup_end=3)
    assert found.answer == "three phases found"
    assert [label for label, _, _ in found.spans] == ["warmup", "entropy-seeking", "compression-seeking"]
    assert [(span[1], span[2]) for span in found.spans] == [(s.start, s.end) for s in found.swings]
    assert found.limit == 80  # 2 % of the run
    for turn, true in zip(found.turns, (0.2, 0.65), strict=True):
        assert turn.low < turn.step < turn.high
        assert turn.low <= LAST**true <= turn.high
    assert [turn.kind for turn in found.turns] == ["trough", "peak"]


def test_inner_turns_of_the_warmup_are_listed() -> None:
    u = np.linspace(0, 1, 40)
    values = np.interp(u, [0, 0.15, 0.35, 1], [4, 4.4, 0.5, 4]) + 0.02 * np.random.default_rng(0).standard_normal(40)
    found = phases(values, warmup_end=10)
    assert found.pattern == "R F R"
    assert found.labels == ("warmup", "warmup", "entropy-seeking")
    inner, end = (turn.step for turn in found.turns)
    assert found.spans[0] == ("warmup", 1, end)
    assert f"inner turn at {inner:,.3g}" in found.verdict


def test_one_stretch_is_no_turning_point() -> None:
    found = phases(noisy("rise", 30, 0.03, 0), warmup_end=3)
    assert (found.pattern, found.answer, found.labels) == ("R", "no turning point found", ("rise",))
    assert "rises throughout" in found.verdict
    assert found.turns == ()


def test_without_a_warmup_the_pattern_is_unanchored_or_ambiguous() -> None:
    assert phases(noisy("F R F", 30, 0.03, 0)).answer == "by pattern alone, unanchored"
    assert phases(noisy("F R", 30, 0.03, 0)).answer == "ambiguous: warmup or compression"


def test_every_answer_says_in_this_run_or_that_it_is_undetermined() -> None:
    for name, warmup_end in (("flat", 3), ("rise", 3), ("R F", 3), ("F R", 0), ("F R F", None)):
        verdict = phases(noisy(name, 30, 0.03, 0), warmup_end=warmup_end, resamples=39).verdict
        assert verdict.startswith("In this run: ")
        assert verdict.endswith(".")


def test_the_same_input_gives_the_same_answer() -> None:
    values = noisy("F R F", 30, 0.03, 0)
    found, again, other = phases(values), phases(values), phases(values, seed=1)
    assert again == found
    assert other.pattern == found.pattern
    assert other.p_values != found.p_values


def test_the_answer_survives_json() -> None:
    values = noisy("F R F", 30, 0.03, 0)
    blocks = values + 0.001 * np.random.default_rng(0).standard_normal((16, 30))
    for found in (phases(values, blocks=blocks, alpha=-values, warmup_end=3), find_phases([1, 2], [3.0, 3.0])):
        record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
        assert record["pattern"] == found.pattern
        assert record["labels"] == list(found.labels)
        assert len(record["swings"]) == len(found.swings)
        assert record["rules"]["resamples"] == 199
    assert record["sigma"] is None


def test_many_checkpoints_are_averaged() -> None:
    n = 300
    values = curve("F R F", n) + 0.1 * np.random.default_rng(1).standard_normal(n)
    found = find_phases(steps(n), values, warmup_end=10, alpha=-values, max_segments=4, resamples=39)
    assert [swing.alpha_agrees for swing in found.swings] == ["yes"] * 3
    assert (found.checkpoints, found.pattern) == (n, "F R F")
    assert found.used == 64
    assert found.sigma == pytest.approx(0.1 / np.sqrt(n / 64), rel=0.4)
    assert set(turn.step for turn in found.turns) <= set(steps(n))
    assert found.swings[0].start < 1.2
    assert found.swings[-1].end > 3400
    for swing, expected in zip(found.swings, (-0.5, 1, -0.4), strict=True):
        assert swing.change == pytest.approx(expected, abs=0.15)


def test_an_even_grid_of_steps_is_averaged_where_it_is_dense() -> None:
    grid = np.arange(0, 143_001, 1000)
    u = np.log(grid + 1000) / np.log(144_000)
    found = find_phases(grid, np.interp(u, [0.58, 0.8, 1], [4, 3, 4]), warmup_end=2000)
    assert found.checkpoints == 144
    assert 9 <= found.used <= 64
    assert found.pattern == "F R"


# --- the second opinion


def test_the_second_opinion_sees_clear_turns_and_decides_nothing() -> None:
    for name in ("rise", "F R", "R F", "F R F", "F R F R"):
        found = phases(noisy(name, 30, 0.03, 1), resamples=39)
        assert found.second_opinion == ("R" if name == "rise" else name)
    flat = phases(noisy("flat", 30, 0.03, 1))
    assert (flat.pattern, bool(flat.second_opinion)) == ("", True)  # it has no word for a flat curve


# --- bad input


GOOD = (list(range(12)), [3.0] * 12)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"steps": [0, 1, 2, 3, 4, 5, 5, 7, 8, 9, 10, 11]}, "5 comes after 5"),
        ({"steps": list(range(12))[::-1]}, "10 comes after 11"),
        ({"steps": [-1, *range(1, 12)]}, "negative"),
        ({"steps": [float("nan"), *range(1, 12)]}, "NaN"),
        ({"values": [3.0] * 11}, "one value for each step"),
        ({"values": [3.0] * 4 + [float("nan")] + [3.0] * 7}, "values: nan at step 4"),
        ({"values": [3.0] * 11 + [float("-inf")]}, "values: -inf at step 11"),
        ({"values": [[3.0] * 12]}, "one value for each step"),
        ({"blocks": [[3.0] * 11] * 16}, "one row of them for each block"),
        ({"blocks": [3.0] * 12}, "one row of them for each block"),
        ({"blocks": [[3.0] * 12] * 7}, "7 filled blocks"),
        ({"blocks": [[3.0] * 12] * 7 + [[float("nan")] * 12] * 9}, "7 filled blocks"),
        ({"blocks": [[3.0] * 12] * 15 + [[float("nan")] + [3.0] * 11]}, "a block: nan at step 0"),
        ({"alpha": [1.0] * 11}, "alpha: shape"),
        ({"alpha": [float("nan")] * 12}, "alpha: nan at step 0"),
        ({"head_removed": [1.0] * 13}, "head_removed: shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(wrong: dict[str, Any], words: str) -> None:
    given = {"steps": GOOD[0], "values": GOOD[1], **wrong}
    with pytest.raises(UserError, match=words) as refused:
        find_phases(given.pop("steps"), given.pop("values"), given.pop("blocks", None), **given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"warmup_end": -1}, {"warmup_end": float("nan")}, {"level": 2.0}, {"min_size": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        find_phases(*GOOD, **wrong)
