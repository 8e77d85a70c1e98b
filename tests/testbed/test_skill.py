"""Splits are disjoint and repeatable, and the verifiers tell right from wrong."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.testbed import SKILLS, SPLITS, Sample, Skill

SEEDS = st.integers(0, 2**32 - 1)
EACH = pytest.mark.parametrize("skill", SKILLS.values(), ids=list(SKILLS))


@EACH
@settings(max_examples=10, deadline=None)
@given(seeds=st.tuples(SEEDS, SEEDS, SEEDS, SEEDS))
def test_splits_never_share_a_prompt(skill: Skill, seeds: tuple[int, ...]) -> None:
    prompts = [
        {s.prompt for s in islice(skill.stream(split, seed), 200)} for split, seed in zip(SPLITS, seeds, strict=True)
    ]
    assert all(one.isdisjoint(other) for one, other in combinations(prompts, 2))


def test_a_shifted_problem_is_never_one_of_the_unshifted() -> None:
    # products are the few problems of one step: drawn until nearly all of them have been seen
    splits = [{s.prompt for s in islice(SKILLS["arithmetic"].stream(split), 20_000)} for split in SPLITS]
    products = [{prompt for prompt in prompts if " * " in prompt} for prompts in splits]
    assert all(one.isdisjoint(other) for one, other in combinations(products, 2))


def test_even_a_shift_that_changes_nothing_cannot_leak_a_training_prompt() -> None:
    skill = replace(SKILLS["codebook"], draw=lambda rng, shifted: SKILLS["codebook"].draw(rng, False))
    trained = {s.prompt for s in islice(skill.stream("train"), 3000)}  # with most of the 342 questions of two words
    assert trained.isdisjoint(s.prompt for s in islice(skill.stream("out_of_domain"), 3000))


def test_instructions_and_preferences_keep_their_prompts_in_the_same_split() -> None:
    def prompts(name: str, split: str) -> set[str]:
        return {s.prompt for s in islice(SKILLS[name].stream(split), 3000)}

    for split in ("in_domain", "multiple_choice", "out_of_domain"):
        assert prompts("instructions", split).isdisjoint(prompts("preferences", "train"))
        assert prompts("preferences", split).isdisjoint(prompts("instructions", "train"))


@EACH
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS)
def test_the_same_seed_gives_the_same_samples(skill: Skill, seed: int) -> None:
    for split in SPLITS:
        samples = skill.samples(split, 30, seed)
        assert samples == skill.samples(split, 30, seed)
        assert samples[:10] == skill.samples(split, 10, seed)
        assert samples != skill.samples(split, 30, seed + 1)
        assert len({s.prompt for s in samples}) == 30


@EACH
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_verifiers_accept_the_answer_and_nothing_else_on_offer(skill: Skill, seed: int) -> None:
    for split in SPLITS:
        for sample in skill.samples(split, 40, seed):
            assert skill.verify(sample, sample.answer)
            assert skill.verify(sample, f" {sample.answer}\n")
            assert not skill.verify(sample, "")
            wrong = [choice for choice in sample.choices if choice != sample.answer]
            wrong += [sample.rejected] if sample.rejected is not None else []
            assert not any(skill.verify(sample, text) for text in wrong), sample


@EACH
def test_multiple_choice_offers_four_options_with_the_answer_once(skill: Skill) -> None:
    places = []
    for sample in skill.samples("multiple_choice", 400):
        assert len(sample.choices) == 4
        assert len(set(sample.choices)) == 4
        places.append(sample.choices.index(sample.answer))
    assert all(60 < places.count(place) < 140 for place in range(4))  # 100 +- 8.7 each


@EACH
def test_only_multiple_choice_has_choices_and_only_preferences_a_rejected_answer(skill: Skill) -> None:
    for split in SPLITS:
        for sample in skill.samples(split, 20):
            assert bool(sample.choices) == (split == "multiple_choice")
            assert (sample.rejected is not None) == (skill.kind == "dpo")


def test_an_unknown_split_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='unknown split "test": choose one of train, in_domain'):
        SKILLS["arithmetic"].samples("test", 1)  # type: ignore[arg-type]


def test_asking_for_more_prompts_than_there_are_is_refused() -> None:
    two = replace(SKILLS["codebook"], name="two", draw=lambda rng, shifted: Sample(rng.choice(("one", "two")), "same"))
    with pytest.raises(ValueError, match="skill two has fewer than 3 distinct prompts in its train split"):
        two.samples("train", 3)
