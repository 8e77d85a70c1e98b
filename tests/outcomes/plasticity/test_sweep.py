"""Several tasks and several rates: each is what it would be alone, and the best rate is not the luckiest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import encode_sample
from limberlm.outcomes.plasticity import best_rate
from limberlm.testbed import SKILLS
from tests.outcomes.plasticity.probing import Rows, alike, named, outcomes, said

RATES = [1e-3, 3e-2, 1e-2]
TASKS = ["cipher", "modular_map"]


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def swept(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Rows:
    return outcomes(model, tiny_tokenizer, tasks=TASKS, learning_rate=RATES, random_labels={"symbols": 4, "prompts": 8})


@pytest.mark.parametrize(("task", "rate"), [("cipher", RATES[0]), ("modular_map", RATES[2])])
def test_a_task_and_a_rate_are_what_they_are_alone(
    task: str, rate: float, swept: Rows, model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    alone = outcomes(model, tiny_tokenizer, tasks=[task], learning_rate=rate)
    assert {row["task"] for row in alone} == {task}
    for row in alone:
        labels: dict[str, Any] = {"task": task, "step": row["step"]}
        if row["settings"] is not None:
            labels["learning_rate"] = rate
        assert alike(named(swept, row["outcome"], **labels), [row])


def test_every_rate_has_its_rows_and_every_task_its_best(swept: Rows) -> None:
    for task in TASKS:
        for outcome in ("aulc", "loss_after", "future_score", "future_kl", "future_update_norm"):
            assert [said(row)["learning_rate"] for row in named(swept, outcome, task=task)] == RATES
        for outcome in ("loss_before", "score_before", "best_learning_rate", "best_aulc", "best_future_score"):
            assert len(named(swept, outcome, task=task)) == 1


def test_the_best_is_chosen_on_some_items_and_read_on_the_others(
    swept: Rows, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    for task in TASKS:
        examples = [
            encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in SKILLS[task].samples("in_domain", 10)
        ]
        tokens = [len(example.ids) - example.context for example in examples]
        choosing = [np.average(row["items"][::2], weights=tokens[::2]) for row in named(swept, "loss_after", task=task)]
        chosen = RATES[int(np.argmin(choosing))]
        assert named(swept, "best_learning_rate", task=task)[0]["value"] == chosen
        for name, weights in (("loss_after", tokens), ("aulc", tokens), ("future_score", [1] * 10)):
            [own], [best] = named(swept, name, task=task, learning_rate=chosen), named(swept, f"best_{name}", task=task)
            assert best["items"] == own["items"][1::2]
            assert best["value"] == pytest.approx(np.average(own["items"][1::2], weights=weights[1::2]))


def test_the_chosen_rate_is_no_part_of_what_a_best_row_depends_on(swept: Rows) -> None:
    # else the best of two checkpoints that choose differently would refuse to be compared
    for row in swept:
        if row["outcome"].startswith("best_"):
            assert "learning_rate" not in json.loads(row["settings"])
            assert json.loads(row["settings"])["learning_rates"] == RATES


@pytest.mark.parametrize(("arms", "luck"), [(3, 0.846), (5, 1.163)])
def test_the_best_of_equal_arms_is_unbiased_where_the_minimum_is_low_by_the_known_amount(
    arms: int, luck: float
) -> None:
    rng = np.random.default_rng(arms)
    items, draws = 40, 4000
    lowest, reported = [], []
    for losses in rng.normal(size=(draws, arms, items)):
        lowest.append(losses.mean(1).min())
        best = best_rate(losses, np.ones(items))
        reported.append(losses[best.rate, best.reported].mean())
    assert np.mean(lowest) * np.sqrt(items) == pytest.approx(-luck, abs=0.03)  # order statistics of a normal
    assert np.mean(reported) == pytest.approx(0, abs=3 / np.sqrt(draws * items / 2))


def test_items_count_by_their_tokens_and_a_rate_that_blew_up_is_never_best() -> None:
    losses = [[1.0, 0.0, 4.0], [3.0, 0.0, 1.0], [np.nan, 0.0, 0.0]]
    assert best_rate(losses, [1, 1, 1]).rate == 1
    assert best_rate(losses, [9, 1, 1]).rate == 0
    with pytest.raises(ValueError, match="cannot both choose"):
        best_rate([[1.0], [2.0]], [1])
