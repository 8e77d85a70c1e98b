"""Accuracy, pairs and losses of every task, and what later stages do to what earlier ones taught."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import Example, context_limit, encode_row, encode_sample
from limberlm.outcomes.retention import backward_transfer, loss_outcome, prose_outcome, skill_outcomes
from limberlm.stages import load_stage_data
from limberlm.testbed import SKILLS
from limberlm.testbed.prose import passages
from tests.outcomes.oracle import Knows, answers, losses_by_hand
from tests.stages.runs import run_stage


def per_token(rows: list[tuple[float, int]]) -> float:
    return sum(loss for loss, _ in rows) / sum(count for _, count in rows)


# --- one checkpoint


def test_accuracy_counts_right_answers_on_the_in_domain_split(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    samples = {name: SKILLS[name].samples("in_domain", 20) for name in ("instructions", "arithmetic")}
    known = answers([*samples["instructions"], *samples["arithmetic"]])
    for sample in samples["arithmetic"][:5]:
        known[sample.prompt] = "no idea"
    rows = skill_outcomes(Knows(tiny_tokenizer, known), tiny_tokenizer, list(samples), 20)
    assert [(row["outcome"], row["task"], row["split"], row["value"], row["n"]) for row in rows] == [
        ("accuracy", "instructions", "in_domain", 1.0, 20),
        ("accuracy", "arithmetic", "in_domain", 0.75, 20),
    ]
    assert rows[1]["items"] == [0.0] * 5 + [1.0] * 15
    assert rows[0]["low"] < 1 == rows[0]["high"]  # Wilson: twenty of twenty is no certainty


def test_pair_accuracy_compares_whole_answers_as_dpo_does(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = SKILLS["preferences"].samples("in_domain", 40)

    def losses(answered: list[str]) -> list[float]:
        pairs = zip(samples, answered, strict=True)
        rows = losses_by_hand(tiny_model, [encode_sample(tiny_tokenizer, s.prompt, a, 256) for s, a in pairs])
        return [loss for loss, _ in rows]

    chosen, rejected = losses([s.answer for s in samples]), losses([str(s.rejected) for s in samples])
    [row] = skill_outcomes(tiny_model, tiny_tokenizer, ["preferences"], 40)
    assert row["items"] == [float(c < r) for c, r in zip(chosen, rejected, strict=True)]
    assert row["outcome"] == "pair_accuracy"
    assert 0 < row["value"] < 1


@pytest.mark.parametrize(("trainer", "task"), [("sft", "instructions"), ("dpo", "preferences")])
def test_a_stages_loss_is_that_of_its_held_out_rows_per_token(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, trainer: str, task: str
) -> None:
    rows = load_stage_data(f"testbed:{task}", trainer, seed=0, rows=1).held_out[:30]
    found = loss_outcome(tiny_model, tiny_tokenizer, task, rows)
    wanted = losses_by_hand(tiny_model, [encode_row(tiny_tokenizer, row, 256) for row in rows])
    assert found["value"] == pytest.approx(per_token(wanted), rel=1e-5)
    assert found["items"] == pytest.approx([loss / count for loss, count in wanted], rel=1e-5)
    assert (found["outcome"], found["task"], found["n"]) == ("loss", task, 30)


def test_the_loss_is_the_one_the_trainer_reports_on_the_same_rows(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "a", rows=16, max_steps=1, per_device_train_batch_size=16)
    rows = load_stage_data("testbed:instructions", "sft", seed=0, rows=16).train
    assert loss_outcome(tiny_model, tiny_tokenizer, "x", rows)["value"] == pytest.approx(run.first_loss, rel=1e-5)


def test_rows_without_an_answer_inside_the_context_are_not_scored(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [{"prompt": "dog " * 400 + "\n", "completion": "cat"}, {"prompt": "dog\n", "completion": "cat"}]
    row = loss_outcome(tiny_model, tiny_tokenizer, "x", rows)
    assert row["n"] == 1
    assert row["value"] == loss_outcome(tiny_model, tiny_tokenizer, "x", rows[1:])["value"]


def test_prose_loss_scores_every_token_but_the_first(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = prose_outcome(tiny_model, tiny_tokenizer, 6)
    texts = [tuple(tiny_tokenizer(text)["input_ids"][:256]) for text in passages("in_domain", 6)]
    wanted = losses_by_hand(tiny_model, [Example(ids, 1) for ids in texts])
    assert found["value"] == pytest.approx(per_token(wanted), rel=1e-5)
    assert (found["outcome"], found["task"], found["n"]) == ("loss", "prose", 6)


@pytest.mark.parametrize(("positions", "limit"), [(256, 256), (1024, 1024), (131072, 1024), (None, 1024)])
def test_the_context_limit_is_the_models_own_up_to_1024(positions: int | None, limit: int) -> None:
    config = SimpleNamespace() if positions is None else SimpleNamespace(max_position_embeddings=positions)
    assert context_limit(SimpleNamespace(config=config)) == limit  # type: ignore[arg-type]


def test_a_model_of_short_context_is_never_shown_more(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    seen: list[int] = []

    class Short(torch.nn.Module):
        config = SimpleNamespace(max_position_embeddings=24)
        device = torch.device("cpu")

        def forward(self, input_ids: torch.Tensor, **kwargs: object) -> SimpleNamespace:
            seen.append(input_ids.shape[1])
            return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 400))

    row = prose_outcome(Short(), tiny_tokenizer, 4)  # type: ignore[arg-type]
    assert max(seen) == 24
    assert row["value"] == pytest.approx(np.log(400))


# --- along a path

RESULTS = [[0.20, 0.30, 0.40], [0.60, 0.35, 0.38], [0.50, 0.70, 0.36], [0.45, 0.55, 0.80]]
TASKS = ["a", "b", "c"]


def path(results: list[list[float]], items: int = 20) -> list[dict[str, list[float]]]:
    """Scores of `items` items whose mean is the given one, per checkpoint and task."""
    return [
        {
            task: [1.0] * round(share * items) + [0.0] * (items - round(share * items))
            for task, share in zip(TASKS, row, strict=True)
        }
        for row in results
    ]


def test_backward_transfer_equals_the_worked_matrix() -> None:
    by_hand = np.mean([RESULTS[3][task] - RESULTS[task + 1][task] for task in range(2)])
    assert by_hand == pytest.approx(-0.150)
    assert np.mean(backward_transfer(path(RESULTS), TASKS)) == pytest.approx(-0.150)


def test_backward_transfer_is_read_after_every_stage() -> None:
    scores = path(RESULTS)
    assert backward_transfer(scores[:1], []) is None  # the base taught nothing
    assert backward_transfer(scores[:2], TASKS[:1]) is None  # nothing came before
    assert np.mean(backward_transfer(scores[:3], TASKS[:2])) == pytest.approx(0.50 - 0.60)


def test_backward_transfer_is_paired_item_by_item() -> None:
    scores = [{"a": [0.0, 0.0]}, {"a": [1.0, 0.0]}, {"a": [0.0, 1.0], "b": [1.0]}]
    assert backward_transfer(scores, ["a", "b"]) == [-1.0, 1.0]


def test_a_task_trained_again_is_not_an_earlier_one() -> None:
    scores = [{"a": [0.0], "b": [0.0]}, {"a": [1.0], "b": [0.0]}, {"a": [0.0], "b": [1.0]}, {"a": [1.0], "b": [0.5]}]
    assert backward_transfer(scores, ["a", "b", "a"]) == [-0.5]


def test_tasks_without_a_score_are_left_out() -> None:
    scores = path(RESULTS)
    without = [{task: row[task] for task in ("b", "c")} for row in scores]
    assert np.mean(backward_transfer(without, TASKS)) == pytest.approx(0.55 - 0.70)
    assert backward_transfer([{}, {}, {}], ["x.jsonl", "b"]) is None
