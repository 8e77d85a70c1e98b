"""Every outcome that draws the testbed's samples refuses in one line what there is none of, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.choices import choice_outcomes
from limberlm.outcomes.diversity import pass_at_k_outcomes
from limberlm.outcomes.memorization.spans import skill_spans
from limberlm.outcomes.ood import ood_outcomes
from limberlm.outcomes.ood_distance import ood_distance
from limberlm.outcomes.retention import skill_outcomes
from limberlm.outcomes.samples import OUT_OF_DOMAIN, draw_samples, find_skill
from limberlm.outcomes.win_rate import win_rate
from limberlm.testbed import SKILLS

Measure = Callable[[LlamaForCausalLM, PreTrainedTokenizerFast, list[str], int], Any]

MEASURES: dict[str, Measure] = {
    "retention": skill_outcomes,
    "ood": ood_outcomes,
    "ood_distance": ood_distance,
    "choices": choice_outcomes,
    "diversity": pass_at_k_outcomes,
    "win_rate": lambda model, tokenizer, skills, items: win_rate(model, model, tokenizer, skills, items),
    "memorization": lambda model, tokenizer, skills, items: skill_spans(tokenizer, skills, items),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_skill_that_there_is_none_of_is_refused(
    measure: Measure, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=r'^"arithmetics" is not a skill .*\(did you mean "arithmetic"\?\)'):
        measure(tiny_model, tiny_tokenizer, ["arithmetics"], 16)


@pytest.mark.parametrize(
    ("items", "said"),
    [(0, r"^items=0: give at least 1$"), (2000, r"^items=2000: skill arithmetic has fewer .*; ask for fewer$")],
)
def test_samples_that_there_are_none_of_are_refused(
    items: int, said: str, tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(UserError, match=said):
        skill_outcomes(tiny_model, tiny_tokenizer, ["arithmetic"], items)


def test_samples_are_the_skills_own_and_the_first_ones_of_more() -> None:
    drawn = draw_samples("arithmetic", OUT_OF_DOMAIN, 8)
    assert drawn == SKILLS["arithmetic"].samples(OUT_OF_DOMAIN, 8) == draw_samples("arithmetic", OUT_OF_DOMAIN, 20)[:8]
    assert find_skill("arithmetic") is SKILLS["arithmetic"]
