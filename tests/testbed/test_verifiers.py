"""Right answers pass and slightly wrong ones fail, ten thousand of each; no future task's questions reach a chain."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from itertools import islice

import pytest

from limberlm.testbed import SKILLS, SPLITS, Sample, Skill
from limberlm.testbed.pretrain import PretrainSettings
from limberlm.testbed.probe import probe_rows
from tests.testbed.mutations import meaning, mutated

ITEMS = pytest.mark.parametrize("items", [400, pytest.param(10_000, marks=pytest.mark.slow)])
EACH = pytest.mark.parametrize("skill", SKILLS.values(), ids=list(SKILLS))


@ITEMS
@EACH
def test_the_answers_verify(skill: Skill, items: int) -> None:
    drawn = [s for split in SPLITS for s in islice(skill.stream(split, 1), items // len(SPLITS))]
    assert [s for s in drawn if not skill.verify(s, s.answer)] == []


@ITEMS
@EACH
def test_mutated_answers_fail(skill: Skill, items: int) -> None:
    rng = random.Random(0)
    passed, tried = [], 0
    for sample in skill.stream("train", 2):
        text = mutated(rng, sample.answer)
        if meaning(skill, sample, text) != meaning(skill, sample, sample.answer):
            tried += 1
            passed += [(sample, text)] if skill.verify(sample, text) else []
        if tried == items:
            break
    assert passed == []


@EACH
def test_no_wrong_option_means_the_same_as_the_answer(skill: Skill) -> None:
    for sample in islice(skill.stream("multiple_choice", 3), 100):
        wrong = [option for option in sample.choices if option != sample.answer]
        assert len(wrong) == 3
        assert meaning(skill, sample, sample.answer) not in [meaning(skill, sample, option) for option in wrong]


@EACH
def test_there_are_enough_distinct_prompts_for_a_study(skill: Skill) -> None:
    for split, count in (("train", 4096), ("in_domain", 400), ("out_of_domain", 400), ("multiple_choice", 400)):
        assert len({s.prompt for s in skill.samples(split, count)}) == count


def digests(samples: Iterable[Sample]) -> set[bytes]:
    """Hashes of the prompts, and of the prompts with their answers."""
    texts = (text for s in samples for text in (s.prompt, f"{s.prompt}\n{s.answer}"))
    return {hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts}


@ITEMS
def test_no_item_of_a_future_task_is_trained_on_in_a_chain(items: int) -> None:
    trained: set[bytes] = set()
    for skill in SKILLS.values():
        if skill.kind != "future":
            trained |= digests(islice(skill.stream("train"), items))
    assert len(trained) > items
    futures = [skill for skill in SKILLS.values() if skill.kind == "future"]
    assert len(futures) >= 4
    for skill in futures:
        for split in SPLITS:
            assert trained.isdisjoint(digests(islice(skill.stream(split), items // 4)))


def test_future_tasks_are_in_neither_the_pretraining_mix_nor_the_probe() -> None:
    seen = {*PretrainSettings().mix, *(row["domain"] for row in probe_rows(chat=False, prose=2, samples=2))}
    assert not seen & {skill.name for skill in SKILLS.values() if skill.kind == "future"}


@ITEMS
@EACH
def test_the_splits_share_no_hash_of_a_prompt(skill: Skill, items: int) -> None:
    hashes = [
        digests(Sample(s.prompt, "") for s in islice(skill.stream(split, 4), items // len(SPLITS))) for split in SPLITS
    ]
    assert len(set.union(*hashes)) == sum(map(len, hashes))
