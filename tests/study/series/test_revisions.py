"""What names say: every revision in public use, and what patterns stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.study.series.revisions import (
    Revision,
    expand,
    nearest_revisions,
    parse_revision,
    refuse_unlisted,
    step_of_folder,
)
from tests.study.series.fake_hub import LISTINGS

B = 10**9

SAID = {
    "step0": (0, None, None, None),
    "step512": (512, None, None, None),
    "step143000": (143_000, None, None, None),
    "stage1-step928646-tokens3896B": (928_646, 1, None, 3896 * B),
    "stage2-ingredient1-step11931-tokens50B": (11_931, 2, 1, 50 * B),
    "step150-tokens1B": (150, None, None, B),
    "step2150-tokens10B": (2150, None, None, 10 * B),
    "stage1-step0-tokens0B": (0, 1, None, 0),
    "stage1-step300-tokens1B": (300, 1, None, B),
    "stage1-step10000-tokens21B": (10_000, 1, None, 21 * B),
    "stage1-step1907359-tokens4001B": (1_907_359, 1, None, 4001 * B),
    "stage2-ingredient3-step1000-tokens3B": (1000, 2, 3, 3 * B),
    "stage2-ingredient3-step23852-tokens51B": (23_852, 2, 3, 51 * B),
    "stage1-step1000-tokens3B": (1000, 1, None, 3 * B),
    "step_40": (40, None, None, None),
    "step_2440": (2440, None, None, None),
    "step7-tokens2.5B": (7, None, None, 2_500_000_000),
}


@pytest.mark.parametrize("name", SAID)
def test_a_revision_says_its_step_stage_ingredient_and_tokens(name: str) -> None:
    step, stage, ingredient, tokens = SAID[name]
    assert parse_revision(name) == Revision(name, step, stage, ingredient, tokens)


@pytest.mark.parametrize("name", ["main", "step", "stage1", "step-5", "xstep5", "step5-tokensB", "step5x", "v1.0", ""])
def test_other_names_say_nothing(name: str) -> None:
    assert parse_revision(name) is None


@pytest.mark.parametrize("repository", LISTINGS)
def test_every_listed_name_but_main_is_understood(repository: str) -> None:
    names = LISTINGS[repository]
    assert [name for name in names if parse_revision(name) is None] == ["main"]


def test_all_154_revisions_of_pythia_are_what_its_pattern_stands_for() -> None:
    names = expand("step{0,1,2,4,8,16,32,64,128,256,512,1000..143000/1000}")
    assert len(names) == 154
    assert set(names) == set(LISTINGS["EleutherAI/pythia-1b"]) - {"main"}


def test_a_token_label_is_no_exact_multiple_of_the_step() -> None:
    """4,194,304 tokens a step: 11,931 steps are 50.04 billion, rounded up 51, and the label says 50."""
    assert parse_revision("stage2-ingredient1-step11931-tokens50B").tokens == 50 * B
    assert -(-11_931 * 4_194_304 // B) == 51


def test_folders_say_their_step_in_the_ways_trainers_write_it() -> None:
    names = {"step-000010": 10, "step_10": 10, "step10": 10, "checkpoint-500": 500, "global_step12": 12, "iter-3": 3}
    assert {name: step_of_folder(name) for name in names} == names
    assert step_of_folder("stage1-step300-tokens1B") == 300
    assert [step_of_folder(name) for name in ("final", "trainer", "step-ten", "checkpoint", "my-step-3")] == [None] * 5


def test_leading_zeros_and_strides_are_kept() -> None:
    assert expand("step-{000008..000012/2}") == ["step-000008", "step-000010", "step-000012"]
    assert expand("a{1,2}b{3..4}") == ["a1b3", "a1b4", "a2b3", "a2b4"]
    assert expand("main") == ["main"]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 50))
def test_a_range_is_what_python_counts(first: int, more: int, by: int) -> None:
    assert expand(f"s{{{first}..{first + more}/{by}}}") == [f"s{n}" for n in range(first, first + more + 1, by)]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("step{0,1", "do not match"),
        ("step0}", "do not match"),
        ("step{a{1}}", "nested"),
        ("step{}", "no list or range"),
        ("step{1,,2}", "no list or range"),
        ("step{1..}", "no list or range"),
        ("step{5..1}", "falls"),
        ("step{1..9/0}", "stride of 0"),
        ("step{0..100000000}", "more than 100,000"),
        ("{1..1000}{1..1000}", "1,000,000 names"),
    ],
)
def test_a_pattern_that_makes_no_sense_is_refused_in_one_line(pattern: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as refused:
        expand(pattern)
    assert str(refused.value).startswith(f'revisions: "{pattern}"')
    assert "\n" not in str(refused.value)


def test_a_revision_that_does_not_exist_is_answered_with_the_nearest_ones() -> None:
    listed = LISTINGS["EleutherAI/pythia-1b"]
    assert nearest_revisions("step600", listed) == ["step512", "step256", "step1000", "step128", "step64"]
    assert "main" in nearest_revisions("mian", listed)
    with pytest.raises(UserError) as refused:
        refuse_unlisted(["step0", "step1500", "step2500"], listed, "EleutherAI/pythia-1b", "checkpoints.0.revisions")
    assert str(refused.value) == (
        'checkpoints.0.revisions: EleutherAI/pythia-1b has no revision "step1500" (and 1 more); '
        "the nearest are step1000, step2000, step512, step256, step128"
    )
