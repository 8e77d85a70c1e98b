"""Answer losses are the cross-entropy of the answer tokens alone; exact answers are judged item by item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import Example, collate, encode_sample, pad_id
from limberlm.outcomes.retention import skill_outcomes
from limberlm.outcomes.scoring import Asked, answer_losses, exact_answers, greedy_answers, token_losses
from limberlm.testbed import SKILLS, Sample
from limberlm.testbed.skill import same_text
from tests.outcomes.oracle import Knows, answers, losses_by_hand


@pytest.fixture
def examples(tiny_tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """Questions of many lengths with their answers."""
    samples = [s for name in ("instructions", "arithmetic", "codebook") for s in SKILLS[name].samples("in_domain", 8)]
    return [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in samples]


def test_losses_equal_the_cross_entropy_by_hand(tiny_model: LlamaForCausalLM, examples: list[Example]) -> None:
    examples = [*examples, Example((5, 6, 7), 0), Example((5, 6, 7), 3), Example((9,), 1)]
    found, wanted = answer_losses(tiny_model, examples, pad=0), losses_by_hand(tiny_model, examples)
    assert found.dtype == torch.float64
    assert found[:, 1].tolist() == [count for _, count in wanted]
    torch.testing.assert_close(found[:, 0], torch.tensor([loss for loss, _ in wanted]).double(), rtol=1e-5, atol=1e-5)


def test_losses_depend_on_neither_batch_size_nor_padding(tiny_model: LlamaForCausalLM, examples: list[Example]) -> None:
    whole = answer_losses(tiny_model, examples, pad=0)
    for size, pad in ((1, 0), (5, 0), (32, 7)):
        again = answer_losses(tiny_model, examples, pad=pad, size=size)
        torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)


def test_losses_do_not_depend_on_the_company(tiny_model: LlamaForCausalLM, examples: list[Example]) -> None:
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = answer_losses(tiny_model, [examples[i] for i in order], pad=0, size=4)
    torch.testing.assert_close(shuffled, answer_losses(tiny_model, examples, pad=0)[order], rtol=1e-5, atol=1e-5)


def test_context_tokens_are_not_scored(tiny_model: LlamaForCausalLM, examples: list[Example]) -> None:
    # the last answer token's loss is the difference between scoring from the answer's start and all but its end
    example = max(examples, key=lambda e: len(e.ids) - e.context)
    parts = [Example(example.ids, place) for place in range(example.context, len(example.ids))]
    losses = answer_losses(tiny_model, parts, pad=0)
    assert losses[:, 1].tolist() == list(range(len(parts), 0, -1))
    assert (losses[:-1, 0] > losses[1:, 0]).all()


def test_token_losses_can_be_trained_on(tiny_model: LlamaForCausalLM, examples: list[Example]) -> None:
    losses, tokens = token_losses(tiny_model, collate(examples[:4], 0))
    (losses.sum() / tokens.sum()).backward()
    assert losses.shape == tokens.shape == (4,)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in tiny_model.parameters())


# --- exact answers


@pytest.mark.parametrize("name", ["instructions", "arithmetic", "codebook"])
def test_a_model_that_knows_is_always_right(tiny_tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    samples = SKILLS[name].samples("in_domain", 130)
    model = Knows(tiny_tokenizer, answers(samples))
    assert exact_answers(model, tiny_tokenizer, SKILLS[name], samples) == [True] * 130
    assert model.sizes == [64, 64, 2]


def test_each_verdict_belongs_to_its_own_question(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    samples = SKILLS["instructions"].samples("in_domain", 100)
    right = [i % 3 != 0 for i in range(100)]
    given = {s.prompt: s.answer if ok else f"{s.answer} no" for s, ok in zip(samples, right, strict=True)}
    assert exact_answers(Knows(tiny_tokenizer, given), tiny_tokenizer, SKILLS["instructions"], samples) == right


def test_batched_generation_says_what_one_by_one_says(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    said: list[str] = []
    # the same answer throughout gives every call the same room
    samples = [replace(s, answer="apple dog") for s in SKILLS["instructions"].samples("in_domain", 12)]
    skill = replace(SKILLS["instructions"], judge=lambda sample, text: said.append(text) or same_text(sample, text))
    exact_answers(tiny_model, tiny_tokenizer, skill, samples)
    batched, said[:] = said.copy(), []
    for sample in samples:
        exact_answers(tiny_model, tiny_tokenizer, skill, [sample])
    assert batched == said
    assert len({text for text in said if text != "apple dog"}) > 3


def test_a_model_without_a_chat_template_is_asked_in_plain_lines(
    tiny_tokenizer: PreTrainedTokenizerFast, tiny_model_folder: Path
) -> None:
    plain = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    plain.chat_template = None
    samples = SKILLS["arithmetic"].samples("in_domain", 5)
    model = Knows(plain, answers(samples))
    assert all(exact_answers(model, plain, SKILLS["arithmetic"], samples))
    assert tuple(plain(f"{samples[0].prompt}\n")["input_ids"]) in model.answers


def test_the_longest_answer_has_room(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    samples = [Sample("short", "a"), Sample("long", " ".join(["elephant"] * 30))]
    model = Knows(tiny_tokenizer, answers(samples))
    assert exact_answers(model, tiny_tokenizer, SKILLS["instructions"], samples) == [True, True]


def test_padding_falls_back_to_the_end_token(tiny_model_folder: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    assert pad_id(tokenizer) == tokenizer.pad_token_id == 0
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == tokenizer.eos_token_id == 1


# --- greedy answers


def test_exact_answers_are_verdicts_on_the_greedy_texts(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = SKILLS["instructions"].samples("in_domain", 12)
    texts = greedy_answers(tiny_model, tiny_tokenizer, samples)
    assert len(set(texts)) > 3
    heard: list[tuple[str, str]] = []
    skill = replace(SKILLS["instructions"], judge=lambda s, text: heard.append((s.prompt, text)) or len(heard) % 3 == 0)
    verdicts = exact_answers(tiny_model, tiny_tokenizer, skill, samples)
    assert heard == [(sample.prompt, text) for sample, text in zip(samples, texts, strict=True)]
    assert verdicts == [place % 3 == 0 for place in range(1, 13)]


def test_answers_are_generated_once_however_often_they_are_read(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    samples = {split: SKILLS["arithmetic"].samples(split, 10) for split in ("in_domain", "out_of_domain")}
    model = Knows(tiny_tokenizer, answers([*samples["in_domain"], *samples["out_of_domain"]]))
    asked = Asked(model, tiny_tokenizer)
    for _ in range(3):
        for split, own in samples.items():
            assert [text.split() for text in asked.answers("arithmetic", split, 10)] == [s.answer.split() for s in own]
    assert model.sizes == [10, 10]
    assert asked.answers("arithmetic", "in_domain", 4) == asked.answers("arithmetic", "in_domain", 10)[:4]
    assert model.sizes == [10, 10, 4]  # another number of questions is another room for answers


def test_accuracy_reads_answers_that_are_known_already(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Knows(tiny_tokenizer, answers(SKILLS["arithmetic"].samples("in_domain", 10)))
    asked = Asked(model, tiny_tokenizer)
    first, again = (skill_outcomes(model, tiny_tokenizer, ["arithmetic"], 10, asked=asked) for _ in range(2))
    assert first == again
    assert first[0]["value"] == 1.0
    assert model.sizes == [10]
