"""Plasticity: learning a new task leaves the model as it was, starts from its own loss and repeats exactly."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.errors import UserError
from limberlm.outcomes.encoding import Batch, collate, encode_sample
from limberlm.outcomes.plasticity import PlasticitySettings, aulc, fresh_adapter, plasticity_outcomes
from limberlm.testbed import SKILLS, skill
from tests.outcomes.oracle import losses_by_hand
from tests.outcomes.plasticity.probing import SETTINGS, alike, lora, named, outcomes, said

# --- the area under the curve


def test_aulc_by_hand() -> None:
    assert aulc([0, 1, 2, 3], [4.0, 2.0, 1.0, 1.0]) == pytest.approx((2 + 1 + 1) / 3)
    assert aulc([0, 5, 6], [3.0, 1.0, 0.0]) == pytest.approx((10 + 0.5) / 6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-5, 5)), min_size=1, max_size=12), st.floats(-5, 5))
def test_aulc_averages_the_readings_or_the_line_through_them(steps: list[tuple[int, float]], first: float) -> None:
    grid, losses = [0, *np.cumsum([gap for gap, _ in steps]).tolist()], [first, *(loss for _, loss in steps)]
    even = len({gap for gap, _ in steps}) == 1
    expected = sum(losses[1:]) / len(steps) if even else np.trapezoid(losses, grid) / grid[-1]
    assert aulc(grid, losses) == pytest.approx(expected, abs=1e-9)
    assert min(losses) - 1e-9 <= aulc(grid, losses) <= max(losses) + 1e-9
    assert aulc(grid, [loss + 2 for loss in losses]) == pytest.approx(aulc(grid, losses) + 2, abs=1e-9)


# --- the rows


@pytest.fixture(scope="module")
def rows(tiny_model_folder: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    return outcomes(LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval(), tiny_tokenizer)


def test_the_curve_has_both_ends_and_every_step_between(rows: list[dict[str, Any]]) -> None:
    assert [row["step"] for row in named(rows, "future_loss")] == [0, 2, 4, 5]
    others = {row["outcome"]: row["step"] for row in rows if row["outcome"] != "future_loss"}
    start, end = ("loss_before", "score_before"), ("aulc", "loss_after", "future_score", "future_kl")
    assert others == dict.fromkeys((*start, *end, "future_update_norm"))
    assert {(row["task"], row["split"]) for row in rows} == {("codebook", "in_domain")}
    assert {row["n"] for row in rows if row["outcome"] != "future_update_norm"} == {10}
    budget = {"steps": 5, "every": 2, "batch_size": 8, "learning_rate": 1e-2, "seed": 0, "r": 4, "lora_alpha": 8}
    for row in rows:
        stated = {name: value for name, value in said(row).items() if name != "tokens"}
        assert stated == ({} if row["outcome"] in start else budget)


def test_the_curve_starts_at_the_untouched_models_loss(
    rows: list[dict[str, Any]], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    samples = SKILLS["codebook"].samples("in_domain", 10)
    untouched = losses_by_hand(tiny_model, [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in samples])
    first, [before] = named(rows, "future_loss")[0], named(rows, "loss_before")
    total = sum(loss for loss, _ in untouched) / sum(count for _, count in untouched)
    assert first["value"] == before["value"] == pytest.approx(total, rel=1e-5)
    assert first["items"] == pytest.approx([loss / count for loss, count in untouched], rel=1e-5)


def test_the_area_is_that_of_the_curve_and_the_ends_are_its_ends(rows: list[dict[str, Any]]) -> None:
    curve = named(rows, "future_loss")
    steps, losses = [row["step"] for row in curve], [row["value"] for row in curve]
    [area], [after] = named(rows, "aulc"), named(rows, "loss_after")
    assert area["value"] == pytest.approx(np.trapezoid(losses, steps) / 5, rel=1e-12)
    assert area["items"] == pytest.approx(np.trapezoid([row["items"] for row in curve], steps, axis=0) / 5, rel=1e-12)
    assert after["value"] == losses[-1]
    assert area["std_error"] > 0


def test_learning_lowers_the_loss(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = outcomes(tiny_model, tiny_tokenizer, steps=25, every=25)
    before, after = named(rows, "loss_before")[0], named(rows, "loss_after")[0]
    assert after["high"] < before["low"]


def test_no_training_row_is_scored(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    task = SKILLS["codebook"]
    trained = {s.prompt for s in task.samples("train", 40)}
    assert not trained & {s.prompt for s in task.samples("in_domain", 10)}


def test_two_calls_agree_to_the_bit(
    rows: list[dict[str, Any]], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(99)
    for _ in range(2):  # on the same model again: nothing was left behind
        assert alike(outcomes(tiny_model, tiny_tokenizer), rows)


def test_the_seed_changes_the_learning_and_neither_its_start_nor_its_items(
    rows: list[dict[str, Any]], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    other = outcomes(tiny_model, tiny_tokenizer, seed=1)
    assert named(other, "loss_before") == named(rows, "loss_before")
    assert named(other, "loss_after")[0]["value"] != named(rows, "loss_after")[0]["value"]


def test_progress_counts_every_step(tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    told: list[tuple[int, int]] = []
    settings = PlasticitySettings(**SETTINGS, tasks=2, random_labels=True, readiness={"micro_batches": 4})
    plasticity_outcomes(tiny_model, tiny_tokenizer, lora(), settings, progress=lambda *what: told.append(what))
    assert told == [(done, 5 * 3 + 4 * 2) for done in range(1, 24)]


def test_a_task_that_the_model_cannot_read_or_has_too_few_rows_is_refused(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(skill, "EXHAUSTED", 1)  # the first repeat, as if the task had no more
        with pytest.raises(UserError, match=r"codebook has fewer than 1600 distinct prompts.*ask for fewer steps"):
            outcomes(tiny_model, tiny_tokenizer, steps=200)
    tiny_model.config.max_position_embeddings = 20
    with pytest.raises(UserError, match="records has an example of over 20 tokens"):
        outcomes(tiny_model, tiny_tokenizer, tasks=["records"])


# --- the model afterwards


def state(model: LlamaForCausalLM) -> dict[str, Any]:
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "flags": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "modules": [name for name, _ in model.named_modules()],
        "grads": {name: parameter.grad for name, parameter in model.named_parameters()},
        "rng": torch.get_rng_state(),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    }


def assert_same(model: LlamaForCausalLM, before: dict[str, Any]) -> None:
    after = state(model)
    for name in ("flags", "modes", "modules", "grads", "hooks"):
        assert after[name] == before[name], name
    assert after["weights"].keys() == before["weights"].keys()
    assert all(torch.equal(after["weights"][name], tensor) for name, tensor in before["weights"].items())
    assert torch.equal(after["rng"], before["rng"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", ["all", "none", "some"])
def test_the_model_is_left_as_it_was(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, training: bool, trainable: str
) -> None:
    tiny_model.train(training)
    tiny_model.model.layers[0].train(not training)
    for name, parameter in tiny_model.named_parameters():
        parameter.requires_grad_(trainable == "all" or (trainable == "some" and "mlp" in name))
    before = state(tiny_model)
    outcomes(tiny_model, tiny_tokenizer)
    assert_same(tiny_model, before)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_after_an_exception_too(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, training: bool
) -> None:
    tiny_model.train(training)
    tiny_model.model.embed_tokens.weight.requires_grad_(False)
    before = state(tiny_model)

    def stop(step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plasticity_outcomes(tiny_model, tiny_tokenizer, lora(), PlasticitySettings(**SETTINGS), progress=stop)
    assert_same(tiny_model, before)


# --- the adapter


def drawn(model: LlamaForCausalLM, seed: int = 0) -> dict[str, torch.Tensor]:
    with fresh_adapter(model, lora(), seed) as student:
        return {name: tensor.clone() for name, tensor in student.named_parameters() if "lora_" in name}


def test_every_call_draws_the_same_adapter(tiny_model: LlamaForCausalLM, tiny_model_folder: Any) -> None:
    first = drawn(tiny_model)
    torch.randn(7)
    again, elsewhere = drawn(tiny_model), drawn(LlamaForCausalLM(tiny_model.config))
    other = drawn(tiny_model, seed=1)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, elsewhere[name])  # whatever the checkpoint's weights are
        assert torch.equal(tensor, other[name]) == ("lora_B" in name)
        assert tensor.any() == ("lora_A" in name)


def test_only_the_adapter_learns_and_without_dropout(tiny_model: LlamaForCausalLM) -> None:
    config = lora(lora_dropout=0.5)
    with fresh_adapter(tiny_model, config, 0) as student:
        assert {name for name, p in student.named_parameters() if p.requires_grad} == {
            name for name, _ in student.named_parameters() if "lora_" in name
        }
        assert not [m for m in student.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
        assert not student.training
    assert config.lora_dropout == 0.5  # the caller's settings are the caller's


def test_dropout_in_the_settings_changes_nothing(
    rows: list[dict[str, Any]], tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = plasticity_outcomes(tiny_model, tiny_tokenizer, lora(lora_dropout=0.9), PlasticitySettings(**SETTINGS))
    assert alike(found, rows)


def test_every_training_row_is_used_once_in_the_skills_order(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            pairs = zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True)
            seen.extend(tuple(ids[mask.bool()].tolist()) for ids, mask in pairs)

    hook = tiny_model.register_forward_pre_hook(watch, with_kwargs=True)
    rows = outcomes(tiny_model, tiny_tokenizer)
    hook.remove()
    samples = SKILLS["codebook"].samples("train", 40, 0)
    expected = [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256).ids for s in samples]
    assert seen == expected
    spent = np.cumsum([0, *(sum(len(ids) for ids in expected[i : i + 8]) for i in range(0, 40, 8))])
    assert [said(row)["tokens"] for row in named(rows, "future_loss")] == spent[[0, 2, 4, 5]].tolist()


# --- the learning itself


def taught_by_hand(
    model: LlamaForCausalLM, batches: list[Batch], learning_rate: float, scale: float
) -> dict[str, torch.Tensor]:
    """Weights W + s B A after clipped Adam steps on the mean token loss, written out (Kingma and Ba, algorithm 1)."""
    start = {name.split("base_model.model.")[1]: tensor for name, tensor in drawn(model).items()}
    factors = {name: tensor.requires_grad_() for name, tensor in start.items()}
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    targets = [name.removesuffix(".lora_A.default.weight") for name in factors if "lora_A" in name]

    def merged() -> dict[str, torch.Tensor]:
        return {
            f"{t}.weight": weights[f"{t}.weight"]
            + scale * factors[f"{t}.lora_B.default.weight"] @ factors[f"{t}.lora_A.default.weight"]
            for t in targets
        }

    first, second = ({name: torch.zeros_like(f) for name, f in factors.items()} for _ in range(2))
    for step, batch in enumerate(batches, start=1):
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
        loss = torch.func.functional_call(model, merged(), kwargs=inputs).loss
        gradients = dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))
        norm = torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()
        for name, gradient in gradients.items():
            g = gradient / max(1.0, float(norm))
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            move = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            factors[name] = (factors[name] - learning_rate * move).detach().requires_grad_()
    return {name: tensor.detach() for name, tensor in merged().items()}


def test_the_student_is_taught_by_clipped_adam_on_the_mean_token_loss(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    changes = {"steps": 8, "learning_rate": 3e-2}
    rows = outcomes(tiny_model, tiny_tokenizer, **changes)
    [found], [norm], [kl] = (named(rows, name) for name in ("loss_after", "future_update_norm", "future_kl"))
    train, held_out = (
        [encode_sample(tiny_tokenizer, s.prompt, s.answer, 256) for s in SKILLS["codebook"].samples(split, count)]
        for split, count in (("train", 64), ("in_domain", 10))
    )
    batches = [collate(train[i : i + 8], 0) for i in range(0, 64, 8)]
    before = copy.deepcopy(tiny_model)
    taught = taught_by_hand(tiny_model, batches, 3e-2, scale=2.0)
    tiny_model.load_state_dict(taught, strict=False)
    losses = losses_by_hand(tiny_model, held_out)
    assert found["value"] == pytest.approx(sum(a for a, _ in losses) / sum(n for _, n in losses), rel=1e-4)
    was = before.state_dict()
    change = torch.stack([(taught[name] - was[name]).double().square().sum() for name in taught]).sum().sqrt()
    assert norm["value"] == pytest.approx(float(change), rel=1e-4)
    assert kl["items"] == pytest.approx(divergence_by_hand(before, tiny_model, held_out), rel=1e-3)


def divergence_by_hand(before: LlamaForCausalLM, after: LlamaForCausalLM, examples: list[Any]) -> list[float]:
    """KL of the predictions before from those after, mean over the answer's tokens, one example at a time."""
    found = []
    for example in examples:
        ids = torch.tensor([example.ids])
        with torch.no_grad():
            p, q = (model(ids).logits[0].double().log_softmax(-1) for model in (before, after))
        places = range(example.context - 1, len(example.ids) - 1)
        found.append(sum(float((p[i].exp() * (p[i] - q[i])).sum()) for i in places) / len(places))
    return found
