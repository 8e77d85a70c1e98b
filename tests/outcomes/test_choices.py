"""Multiple choice: the likeliest option is the answer, wherever it stands; a model that cannot tell scores chance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.choices import Questions, choice_outcomes, choice_rows, questions
from limberlm.outcomes.encoding import encode_sample
from limberlm.testbed import SKILLS, Sample
from tests.outcomes.oracle import losses_by_hand

ITEMS = 12


def asked(count: int = 3, right: int = 0) -> Questions:
    options = ("a", "b", "c", "d")
    return Questions("made up", tuple(Sample(f"q{i}", options[right], choices=options) for i in range(count)), ())


def test_the_option_with_the_highest_likelihood_by_hand_is_taken(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = choice_outcomes(tiny_model, tiny_tokenizer, ["instructions", "arithmetic"], ITEMS)
    assert [(row["outcome"], row["task"], row["split"], row["n"]) for row in rows] == [
        (f"choice_accuracy_{score}", task, "multiple_choice", ITEMS)
        for task in ("instructions", "arithmetic")
        for score in ("normalised", "summed")
    ]
    for row in rows:
        right = []
        for sample in SKILLS[row["task"]].samples("multiple_choice", ITEMS):
            scored = losses_by_hand(
                tiny_model, [encode_sample(tiny_tokenizer, sample.prompt, option, 256) for option in sample.choices]
            )
            by_length = row["outcome"].endswith("normalised")
            losses = [loss / (count if by_length else 1) for loss, count in scored]
            right.append(float(sample.choices[int(np.argmin(losses))] == sample.answer))
        assert row["items"] == right
    values = [row["value"] for row in rows]
    assert 0 < min(values) < max(values) < 1, "the case decides nothing"


def test_the_two_scores_differ_where_options_differ_in_length() -> None:
    items = asked(1)
    summed, tokens = np.array([-4.0, -3.0, -9.0, -9.0]), np.array([4.0, 1.0, 1.0, 1.0])
    normalised, total = choice_rows(items, summed, tokens)
    assert (normalised["value"], total["value"]) == (1.0, 0.0)  # -1 a token against -3 a token; -4 against -3


def test_rows_state_the_score_and_the_level_of_guessing() -> None:
    three = replace(asked(2), samples=(*asked(2).samples[:1], Sample("q", "a", choices=("a", "b"))))
    for row, score in zip(choice_rows(three, np.zeros(6), np.ones(6)), ("normalised", "summed"), strict=True):
        assert json.loads(row["settings"]) == {"score": score, "chance": pytest.approx((1 / 4 + 1 / 2) / 2)}


@given(st.integers(0, 3), st.integers(1, 6))
def test_a_model_that_cannot_tell_options_apart_scores_chance_wherever_the_right_one_stands(
    place: int, count: int
) -> None:
    items = asked(count, place)
    assert items.credits(np.zeros(4 * count)) == [0.25] * count


def test_a_model_without_logits_of_its_own_scores_chance(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight.zero_()  # every logit is 0
    rows = choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], ITEMS)
    assert rows[0]["items"] == pytest.approx([0.25] * ITEMS)


def test_a_diverged_model_is_never_right() -> None:
    assert asked().credits(np.full(12, np.nan)) == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(-50, 0), min_size=8, max_size=8, unique=True), st.permutations(range(4)))
def test_the_order_of_options_decides_nothing(scores: list[float], order: list[int]) -> None:
    items = asked(2, 1)
    shuffled = tuple(replace(s, choices=tuple(s.choices[i] for i in order)) for s in items.samples)
    moved = [scores[start + i] for start in (0, 4) for i in order]
    again = replace(items, samples=shuffled)
    assert again.credits(np.array(moved)) == items.credits(np.array(scores))
    assert [moved[place] for place in again.right] == [scores[place] for place in items.right]


def test_the_same_items_are_asked_of_every_checkpoint(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    first, again = (choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], 8) for _ in range(2))
    more = choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], ITEMS)
    assert first == again
    assert [row["items"][:8] for row in more] == [row["items"] for row in first]


def test_what_cannot_be_asked_is_refused_in_one_line(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=r'^"arithmetics" is not a skill .*did you mean "arithmetic"'):
        choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetics"], 4)
    with pytest.raises(UserError, match=r"^items=0: give at least 1$"):
        choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], 0)
    with pytest.raises(UserError, match=r"^items=3000: .*ask for fewer$"):
        choice_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], 3000)
    tiny_model.config.max_position_embeddings = 12
    with pytest.raises(UserError, match=r"^instructions: .*longer than the 12 tokens"):
        questions(tiny_model, tiny_tokenizer, "instructions", 4)
