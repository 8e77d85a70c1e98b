"""L2ToBase in TRL's trainers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.rivals.l2_to_base import L2ToBase
from tests.interventions.decorrelation.runs import Run, State, continued, norm, same
from tests.observe.training.test_callback_trainers import load
from tests.stages.runs import lora as saved

FREE = {"max_grad_norm": 0.0}
WEIGHT = 0.3


def dense(parameters: State, start: State | None, scale: float) -> tuple[float, State]:
    """The squared distance of the weights, and its gradients by autograd in float64; B A of adapters, dense."""
    exact = {name: value.double().requires_grad_() for name, value in parameters.items()}
    begun = {name: torch.zeros_like(v) if start is None else start[name].double() for name, v in exact.items()}
    total: Tensor = torch.zeros((), dtype=torch.float64)
    for name in exact:
        if "lora_A" in name:
            other = name.replace("lora_A", "lora_B")
            total = total + (scale * (exact[other] @ exact[name] - begun[other] @ begun[name])).square().sum()
        elif "lora_B" not in name:
            total = total + (exact[name] - begun[name]).square().sum()
    found = torch.autograd.grad(total, list(exact.values()))
    return float(total.detach()), {name: WEIGHT * each for name, each in zip(exact, found, strict=True)}


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "grpo"])
def test_a_fresh_adapter_is_held_to_no_change(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    run = Run(kind, tiny_model_folder, tmp_path, L2ToBase(weight=WEIGHT), **FREE)
    logged = run.logged("limber/l2_to_base")
    assert logged[0] == 0
    for step in (1, 2):
        value, gradients = dense(run.before.parameters[step], None, 2.0)
        assert logged[step] == pytest.approx(value, rel=1e-5)
        assert same(run.added[step], gradients, 1e-5)


@pytest.mark.parametrize("full", [False, True], ids=["continued", "full"])
def test_other_weights_are_held_to_their_start(tiny_model_folder: Path, tmp_path: Path, full: bool) -> None:
    saved(tiny_model_folder, tmp_path / "one", seed=1, r=4, lora_alpha=8)
    model = load(tiny_model_folder) if full else continued(tiny_model_folder, tmp_path / "one")
    run = Run("sft", tiny_model_folder, tmp_path / "run", L2ToBase(weight=WEIGHT), model=model, **FREE)
    assert run.logged("limber/l2_to_base")[0] == 0
    for step in (1, 2):
        value, gradients = dense(run.before.parameters[step], run.before.parameters[0], 2.0)
        assert value > 1e-3
        assert run.logged("limber/l2_to_base")[step] == pytest.approx(value, rel=1e-4)
        assert same(run.added[step], gradients, 1e-3)


def test_weights_saved_whole_beside_an_adapter_count_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    model = get_peft_model(load(tiny_model_folder), config)
    run = Run("sft", tiny_model_folder, tmp_path, L2ToBase(weight=WEIGHT), model=model, **FREE)
    start = {name: value if "norm" in name else 0 * value for name, value in run.before.parameters[0].items()}
    value, gradients = dense(run.before.parameters[2], start, 2.0)
    assert any("norm" in name for name in gradients)
    assert run.logged("limber/l2_to_base")[2] == pytest.approx(value, rel=1e-4)
    assert same(run.added[2], gradients, 1e-4)


def test_the_update_stays_smaller(tiny_model_folder: Path, tmp_path: Path) -> None:
    sizes = []
    for weight in (1e-9, 1.0):
        run = Run("sft", tiny_model_folder, tmp_path / str(weight), L2ToBase(weight=weight), max_steps=8)
        sizes.append(run.logged("limber/l2_to_base")[-1])
    assert sizes[1] < 0.8 * sizes[0]


def test_the_penalty_is_capped_beside_the_clipped_gradient(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = Run("sft", tiny_model_folder, tmp_path, L2ToBase(weight=1e4, cap=0.5), max_grad_norm=0.1)
    assert norm(run.before.gradients[2]) == pytest.approx(0.1, rel=1e-3)
    assert norm(run.added[2]) == pytest.approx(0.05, rel=1e-4)
    assert run.logged("limber/l2_to_base_capped") == [0.0, 1.0, 1.0]


def test_a_run_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tiny_model_folder: Path, tmp_path: Path) -> None:
    def run(out: str, **more: object) -> Run:
        model = continued(tiny_model_folder, tmp_path / "one")
        settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, **more}
        return Run("sft", tiny_model_folder, tmp_path / out, L2ToBase(weight=1.0), model=model, **settings)

    saved(tiny_model_folder, tmp_path / "one", seed=1, r=4, lora_alpha=8)
    whole = run("run")
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    again = run("run", resume_from_checkpoint=checkpoint)
    assert all(torch.equal(again.ends[name], whole.ends[name]) for name in whole.ends)
    (tmp_path / "run" / "limber-start.safetensors").unlink()
    with pytest.raises(UserError, match=r"limber-start.safetensors: no such file, and training resumes at step 2"):
        run("run", resume_from_checkpoint=checkpoint)
