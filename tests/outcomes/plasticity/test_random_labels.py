"""Random labels start at a guess whatever the checkpoint thinks, and can be fitted."""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.encoding import IGNORED
from limberlm.outcomes.plasticity import PlasticitySettings
from limberlm.outcomes.plasticity.learning import read
from limberlm.outcomes.plasticity.lesson import Lesson, random_label_lesson
from tests.outcomes.plasticity.probing import SETTINGS, Rows, named, outcomes, said

ASKED = {"symbols": 4, "prompts": 12}


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def fitted(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Rows:
    changes = {"tasks": [], "steps": 30, "every": 15, "batch_size": 12, "learning_rate": 1e-2}
    return outcomes(model, tiny_tokenizer, random_labels=ASKED, **changes)


def lesson(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, **changes: int) -> Lesson:
    settings = PlasticitySettings(**SETTINGS | {"tasks": [], "random_labels": ASKED} | changes)
    assert settings.random_labels is not None
    return random_label_lesson(model, tokenizer, settings.random_labels, settings)


def test_the_loss_starts_at_that_of_a_guess_and_falls_to_near_nothing(fitted: Rows) -> None:
    curve = named(fitted, "random_label_loss")
    assert [row["step"] for row in curve] == [0, 15, 30]
    assert curve[0]["items"] == pytest.approx([math.log(4)] * 12, abs=1e-5)
    assert curve[-1]["value"] < 0.15
    [before], [after] = (named(fitted, f"random_label_{name}") for name in ("score_before", "score"))
    assert before["value"] < 0.7
    assert after["value"] > 0.9


def test_its_rows_are_told_from_those_of_tasks_by_name_and_split(fitted: Rows) -> None:
    assert {row["outcome"].startswith("random_label_") for row in fitted} == {True}
    assert {(row["task"], row["split"]) for row in fitted} == {("random_labels", "train")}
    for row in fitted:
        assert row["settings"] is None or said(row)["symbols"] == 4


def test_the_softmax_is_over_the_symbols_alone_and_counts_what_has_changed(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    taught, moved = lesson(model, tiny_tokenizer), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    expected: dict[int, float] = {}
    for batch, places in taught.read:
        for ids, mask, labels, place in zip(batch.input_ids, batch.attention_mask, batch.labels, places, strict=True):
            whole = ids[mask.bool()]
            with torch.no_grad():
                now, then = (each(whole[None, :-1]).logits[0, -1].double() for each in (moved, model))
            change = (now - then)[list(taught.symbols)]
            [label] = labels[labels != IGNORED].tolist()
            assert whole[-1] == taught.symbols[label]
            expected[int(place)] = float(torch.logsumexp(change, 0) - change[label])
    found = read(moved, taught)
    assert found.losses == pytest.approx([expected[place] for place in range(12)], rel=1e-4)
    assert np.ptp(found.losses) > 0.1
    loss = taught.training_loss(moved, taught.train[0]).item()
    assert loss == pytest.approx(np.mean([expected[int(place)] for place in taught.train[0][1]]), rel=1e-4)


def test_symbols_are_balanced_prompts_distinct_and_read_in_whole_rounds(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    taught = lesson(model, tiny_tokenizer, steps=3, batch_size=8)
    rows = [tuple(row.tolist()) for batch, _ in taught.train for row in (batch.input_ids * batch.attention_mask)]
    stripped = [tuple(i for i in row if i) for row in rows]
    assert set(Counter(stripped).values()) == {2}  # 3 x 8 examples of 12 prompts
    labels = torch.cat([batch.labels[batch.labels != IGNORED] for batch, _ in taught.read])
    assert sorted(Counter(labels.tolist()).values()) == [3, 3, 3, 3]
    assert len(set(taught.symbols)) == 4


def test_no_prompt_has_a_word_that_is_a_label(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limberlm.outcomes.plasticity.lesson.WORDS", tuple("abcdefghij"))
    taught = lesson(model, tiny_tokenizer)
    texts = [tiny_tokenizer.decode(row[:-1]) for batch, _ in taught.train for row in batch.input_ids]
    words = {frozenset(re.findall(r"\b[a-j]\b", text)) for text in texts}
    assert len(words) == 1  # six of ten letters, the other four being the labels
    assert len(words.pop()) == 6


def test_prompts_and_labels_do_not_depend_on_the_checkpoint_but_on_the_seed(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    one, same = lesson(model, tiny_tokenizer), lesson(LlamaForCausalLM(model.config), tiny_tokenizer)
    other = lesson(model, tiny_tokenizer, seed=1)
    for (a, _), (b, _) in zip(one.train, same.train, strict=True):
        assert torch.equal(a.input_ids, b.input_ids)
        assert torch.equal(a.labels, b.labels)
    assert one.symbols == same.symbols
    assert not torch.equal(one.train[0][0].input_ids, other.train[0][0].input_ids)


def test_what_the_model_or_tokenizer_cannot_give_is_refused(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("limberlm.outcomes.plasticity.lesson.WORDS", ("a", "a b", "b", "c", "d", "e"))
        with pytest.raises(UserError, match=r"symbols: the tokenizer has .*ask for fewer than 64"):
            outcomes(model, tiny_tokenizer, tasks=[], random_labels={"symbols": 64, "prompts": 4})
    monkeypatch.setattr(model.config, "max_position_embeddings", 8)
    with pytest.raises(UserError, match="prompts of over 8 tokens"):
        outcomes(model, tiny_tokenizer, tasks=[], random_labels={"symbols": 2, "prompts": 4})
