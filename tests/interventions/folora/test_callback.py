"""FoloraCallback in TRL's trainers, against whole matrices."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.folora.callback import FoloraCallback
from limberlm.interventions.folora.meter import Meter, base_weight
from limberlm.interventions.seats.factors import Factors, trained_factors
from tests.interventions.decorrelation.runs import Run, State, continued, same
from tests.interventions.folora.measured import Measured
from tests.observe.tiny import tiny
from tests.observe.training.test_callback_trainers import load, lora, trainer
from tests.stages.runs import lora as saved

FREE = {"max_grad_norm": 0.0}
RATE, STEPS = 1e-2, 3
SCALE = 2.0  # lora_alpha 8 / r 4


@pytest.fixture(scope="module")
def stats(tiny_model_folder: Path) -> Measured:
    return Measured.of(load(tiny_model_folder))


def modules(parameters: State) -> dict[str, tuple[str, str]]:
    """The names of A and B, by module."""
    As = [name for name in parameters if "lora_A" in name]
    return {n.removeprefix("base_model.model.").split(".lora_A")[0]: (n, n.replace("lora_A", "lora_B")) for n in As}


def dense(parameters: State, start: State, stats: Measured) -> tuple[dict[str, Tensor], State]:
    """tr(dW Cp dW') of each module, and the gradients of their sum, by whole matrices and autograd in float64."""
    exact = {name: value.double().requires_grad_() for name, value in parameters.items()}
    values = {}
    for module, (A, B) in modules(parameters).items():
        dW = SCALE * (exact[B] @ exact[A] - start[B].double() @ start[A].double())
        values[module] = (dW @ stats.moments[stats.modules[module]] * dW).sum()
    gradients = torch.autograd.grad(torch.stack(list(values.values())).sum(), list(exact.values()))
    return {n: v.detach() for n, v in values.items()}, dict(zip(exact, gradients, strict=True))


def sizes(base: Path, start: State, stats: Measured) -> dict[str, Tensor]:
    """tr(W0 Cp W0') of each module."""
    weights = load(base).state_dict()
    found = {}
    for module, (A, B) in modules(start).items():
        W0 = weights[f"{module}.weight"].double() + SCALE * start[B].double() @ start[A].double()
        found[module] = (W0 @ stats.moments[stats.modules[module]] * W0).sum()
    return found


@pytest.mark.parametrize(
    "kind", ["sft", *(pytest.param(each, marks=pytest.mark.slow) for each in ("dpo", "kto", "grpo"))]
)
def test_a_penalty_adds_its_own_gradient(tiny_model_folder: Path, tmp_path: Path, stats: Measured, kind: str) -> None:
    run = Run(kind, tiny_model_folder, tmp_path, FoloraCallback(stats, penalty=0.3), **FREE)
    logged = run.logged("limber/folora")
    assert logged[0] == 0
    for step in (1, 2):
        values, gradients = dense(run.before.parameters[step], run.before.parameters[0], stats)
        assert logged[step] == pytest.approx(float(sum(values.values())), rel=1e-5)
        assert same(run.added[step], {name: 0.3 * each for name, each in gradients.items()}, 1e-5)


def test_of_a_continued_adapter_what_has_changed_since_counts(
    tiny_model_folder: Path, tmp_path: Path, stats: Measured
) -> None:
    saved(tiny_model_folder, tmp_path / "one", seed=1, r=4, lora_alpha=8)
    model = continued(tiny_model_folder, tmp_path / "one")
    callback = FoloraCallback(stats, penalty=0.3)
    run = Run("sft", tiny_model_folder, tmp_path / "run", callback, model=model, **FREE)
    start = run.before.parameters[0]
    assert run.logged("limber/folora")[0] == 0
    _, gradients = dense(run.before.parameters[2], start, stats)
    assert same(run.added[2], {name: 0.3 * each for name, each in gradients.items()}, 1e-3)
    values, _ = dense(run.ends, start, stats)
    whole = sizes(tiny_model_folder, start, stats)
    assert callback.drifts == pytest.approx({n: float(v / whole[n]) for n, v in values.items()}, rel=1e-3)


def test_what_is_logged_is_what_the_steps_did(tiny_model_folder: Path, tmp_path: Path, stats: Measured) -> None:
    """Under AdamW, with a learning rate that falls from 1e-2 to 0 in three steps."""
    callback = FoloraCallback(stats, every=2)
    run = Run("sft", tiny_model_folder, tmp_path, callback)
    states = [*run.before.parameters, run.ends]
    whole = sizes(tiny_model_folder, states[0], stats)
    assert [entry["step"] for entry in run.log if "limber/folora_drift" in entry] == [2, 3]
    for place, step in enumerate((2, 3)):
        values, _ = dense(states[step], states[0], stats)
        drifts = torch.stack([value / whole[module] for module, value in values.items()])
        assert run.logged("limber/folora_drift")[place] == pytest.approx(float(drifts.mean()), rel=1e-4)
        assert run.logged("limber/folora_drift_max")[place] == pytest.approx(float(drifts.max()), rel=1e-4)
        moved = {n: states[step][n].double() - states[step - 1][n].double() for n in states[0] if "lora_A" in n}
        entries = torch.cat([each.flatten() for each in moved.values()])
        rate = RATE * (1 - (step - 1) / STEPS)
        assert run.logged("limber/folora_step")[place] == pytest.approx(
            float(entries.square().mean().sqrt()) / rate, rel=1e-4
        )
        shares = [on_floor(moved[A], stats, module) for module, (A, _) in modules(states[0]).items()]
        assert run.logged("limber/folora_floor")[place] == pytest.approx(sum(shares) / len(shares), abs=1e-3)
    assert not run.logged("limber/folora")


def on_floor(step: Tensor, stats: Measured, module: str) -> float:
    """By solving for the coordinates, which needs neither Cp nor tau."""
    basis = stats.basis_of(module)
    along = torch.linalg.solve(basis.V, step.T).square().sum(1)
    return float(along[basis.gamma < 3 / 7].sum() / along.sum())


@pytest.mark.parametrize(("penalty", "reads"), [(0.0, 2), (0.1, 1)])
def test_each_moment_is_read_once_a_measurement_or_once_for_a_penalty(
    tiny_model_folder: Path, tmp_path: Path, penalty: float, reads: int
) -> None:
    stats = Measured.of(load(tiny_model_folder))
    Run("sft", tiny_model_folder, tmp_path, FoloraCallback(stats, every=2, penalty=penalty))
    assert set(stats.reads) == set(stats.moments)
    assert set(stats.reads.values()) == {reads}


def test_a_drift_above_the_bound_ends_the_training(
    tiny_model_folder: Path, tmp_path: Path, stats: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    callback = FoloraCallback(stats, every=1, max_drift=1e-12)
    with caplog.at_level(logging.WARNING, "limberlm"):
        run = Run("sft", tiny_model_folder, tmp_path, callback, max_steps=20)
    assert run.trainer.state.global_step == 1
    worst = max(callback.drifts, key=lambda module: callback.drifts[module])
    assert f"the drift of {worst} is {callback.drifts[worst]:.3g}, above max_drift=1e-12" in caplog.text


def test_a_learning_rate_that_is_not_the_trainers_is_told(
    tiny_model_folder: Path, tmp_path: Path, stats: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    def begun(rate: float) -> str:
        caplog.clear()
        model = get_peft_model(load(tiny_model_folder), lora())
        run = trainer("sft", tiny_model_folder, tmp_path, FoloraCallback(stats), model=model, max_steps=1)
        run.optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
        run.train()
        return "".join(record.getMessage() for record in caplog.records if record.name.startswith("limberlm"))

    with caplog.at_level(logging.WARNING, "limberlm"):
        assert "learning rate is 0.001 and the trainer's learning_rate 0.01" in begun(1e-3)
        assert begun(RATE) == ""


def test_the_weight_beside_an_adapter_is_the_bases_however_it_is_stored() -> None:
    for family, targets, fan in (("gpt2", ["c_attn", "c_proj"], True), ("llama", ["q_proj", "down_proj"], False)):
        model: Any = tiny(family)
        shapes = {n: tuple(m.weight.T.shape if fan else m.weight.shape) for n, m in named(model, targets).items()}
        config = LoraConfig(r=2, target_modules=targets, fan_in_fan_out=fan, use_rslora=True, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found = {each.module: base_weight(model, each) for each in trained_factors(model, parameters, "test")}
        assert {name: tuple(weight.shape) for name, weight in found.items()} == shapes


def named(model: Any, ends: list[str]) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if name.split(".")[-1] in ends}


def test_statistics_of_another_model_or_of_other_modules_are_refused(tiny_model_folder: Path, stats: Measured) -> None:
    model = get_peft_model(load(tiny_model_folder), lora())
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    factors = trained_factors(model, parameters, "test")

    def refused(stats: Any, wanted: str, factors: list[Factors] = factors) -> None:
        with pytest.raises(UserError, match=wanted) as error:
            Meter(stats, factors, parameters, keep=False)
        assert "\n" not in str(error.value)

    wider = Measured(stats.modules, stats.moments, dict.fromkeys(stats.bases, stats.basis_of(factors[-1].module)))
    refused(wider, r"^folora: model.layers.0.self_attn.q_proj reads 32 numbers, and 64 in the statistics")
    fewer = {name: each for name, each in stats.modules.items() if "mlp" not in name}
    less = Measured(fewer, stats.moments, stats.bases)
    refused(less, r"^folora: model.layers.0.mlp.gate_proj is trained \(6 such modules\), and the statistics are of")
    refused(stats, r"^folora: the trainer trains no LoRA adapter", [])
    allowed = Measured(fewer, stats.moments, stats.bases, stats.config.model_copy(update={"unprotected": "adamw"}))
    drifts, _ = Meter(allowed, factors, parameters, keep=False).read(model, parameters, {})
    assert drifts == dict.fromkeys(fewer, 0.0)
