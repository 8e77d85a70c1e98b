"""Readiness of a real student: its gradients by hand, its curvature by differences, and no trace left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.encoding import collate, encode_sample
from limberlm.outcomes.plasticity import (
    PlasticitySettings,
    fresh_adapter,
    gradient_products,
    plasticity_outcomes,
)
from limberlm.outcomes.plasticity.lesson import task_lesson
from limberlm.testbed import SKILLS
from tests.outcomes.plasticity.probing import SETTINGS, Rows, alike, lora, named, outcomes, said

ASKED = {"micro_batches": 5, "examples": 3}


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def rows(model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast) -> Rows:
    return outcomes(model, tiny_tokenizer, readiness=ASKED | {"curvature": True})


def gradients_by_hand(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """[K, P] float64: of the model's own loss on each micro-batch, for the B of every module alone."""
    samples = SKILLS["codebook"].samples("train", 15)
    examples = [encode_sample(tokenizer, s.prompt, s.answer, 256) for s in samples]
    found = []
    with fresh_adapter(model, lora(), 0) as student:
        parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
        for start in range(0, 15, 3):
            batch = collate(examples[start : start + 3], 0)
            loss = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            assert all(not g.any() for name, g in gradients.items() if "lora_A" in name)  # B = 0
            found.append(torch.cat([g.flatten() for name, g in gradients.items() if "lora_B" in name]).double())
    return torch.stack(found).numpy()


def test_strength_and_noise_are_those_of_the_models_own_gradients(
    rows: Rows, model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    g = gradients_by_hand(model, tiny_tokenizer)
    strength = (np.square(g.sum(0)).sum() - np.square(g).sum()) / (5 * 4)
    noise = g.var(0, ddof=1).sum()
    reliability = strength / (strength + noise * 3 / 8)  # the training batch is 8
    expected = {
        "strength": strength,
        "noise": noise,
        "reliability": reliability,
        "readiness": abs(strength) * reliability,
    }
    for name, value in expected.items():
        [row] = named(rows, f"gradient_{name}")
        assert row["value"] == pytest.approx(value, rel=1e-4)
        assert row["low"] < row["value"] < row["high"]
        assert len(row["items"]) == row["n"] == 5
        assert {key: said(row)[key] for key in ("micro_batches", "examples", "at")} == ASKED | {"at": 8}


def test_the_students_curvature_is_that_of_finite_differences(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = PlasticitySettings(**SETTINGS, readiness={"micro_batches": 4, "examples": 2})
    exact = LlamaForCausalLM(model.config).double().eval()
    exact.load_state_dict(model.state_dict())
    lesson = task_lesson(exact, tiny_tokenizer, "codebook", settings)
    with fresh_adapter(exact, lora(), 0) as student:
        student.double()  # PEFT makes its own weights float32, and norms stay so: hence no smaller a step
        parameters = [p for name, p in student.named_parameters() if "lora_B" in name]

        def loss(place: int) -> torch.Tensor:
            batch, _ = lesson.micro[place]
            logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            labels = batch.labels[:, 1:]
            return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=-100)

        def moved(by: list[torch.Tensor], step: float) -> None:
            with torch.no_grad():
                for p, g in zip(parameters, by, strict=True):
                    p += step * g

        losses = [partial(loss, place) for place in range(4)]
        gradients = [torch.autograd.grad(each(), parameters) for each in losses]
        _, curved = gradient_products(losses, parameters, curvature=True)
        assert curved is not None
        for k in (0, 3):
            ends = []
            for sign in (1, -1):
                moved(list(gradients[k]), sign * 1e-3)
                ends.append(torch.autograd.grad(losses[(k + 1) % 4](), parameters))
                moved(list(gradients[k]), -sign * 1e-3)
            for j in range(4):
                triples = zip(gradients[j], *ends, strict=True)
                expected = sum(float((g * (up - down)).sum()) for g, up, down in triples) / 2e-3
                assert curved[j, k] == pytest.approx(expected, rel=5e-4)


def test_the_gain_is_that_of_the_best_step_where_there_is_one(rows: Rows) -> None:
    value = {
        name: named(rows, f"gradient_{name}")[0]["value"] for name in ("strength", "curvature", "gain", "best_step")
    }
    bends_up = value["curvature"] > 0
    step = value["strength"] / value["curvature"] if bends_up else np.nan
    assert value["best_step"] == pytest.approx(step, nan_ok=True)
    assert value["gain"] == pytest.approx(step * abs(value["strength"]) / 2, nan_ok=True)


def test_strength_goes_with_the_square_of_the_adapters_scaling(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = PlasticitySettings(**SETTINGS | {"steps": 1}, readiness=ASKED)
    one, twice = (plasticity_outcomes(model, tiny_tokenizer, lora(lora_alpha=alpha), settings) for alpha in (8, 16))
    for name, power in (("strength", 4), ("readiness", 4), ("reliability", 1)):
        [a], [b] = named(one, f"gradient_{name}"), named(twice, f"gradient_{name}")
        assert b["value"] == pytest.approx(power * a["value"], rel=1e-4)


def test_measuring_it_changes_nothing_else(
    rows: Rows, model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    plain = outcomes(model, tiny_tokenizer)
    assert alike([row for row in rows if not row["outcome"].startswith("gradient_")], plain)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
