"""TRL's real trainers with the optimizer: first losses, accumulation, checkpointing, resume, processes, and the end."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from limberlm.interventions.folora.start import save_folora_pretrained
from tests.interventions.behaviour.runs import RUNS, Setup, distance, same_bits, train
from tests.interventions.folora.runs import WORLD, prepared, ranks, trainer, weights

ROOT = Path(__file__).parents[3]
IDS = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(1))
QUIET = Setup(dropout=0.0, window=1)


@torch.no_grad()
def logits(model) -> Tensor:
    return model.eval()(input_ids=IDS).logits


def plain(base: Path):
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


FAST = [("sft", "null_zero"), ("dpo", "null_residual"), ("kto", "null_zero"), ("grpo+kl", "null_residual")]
REST = [each for each in product(RUNS, ("null_zero", "null_residual")) if each not in FAST]


@pytest.mark.parametrize(("kind", "init"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)])
def test_every_trainer_steps_and_its_adapter_loads_and_merges_on_the_base(tiny_model_folder, tmp_path, kind, init):
    stats = prepared(tiny_model_folder, tmp_path, init)
    made = trainer(tiny_model_folder, tmp_path / "run", stats, replace(QUIET, kind=kind))
    start = weights(made.model)
    reference = {n: p.detach().clone() for n, p in made.model.named_parameters() if ".ref." in n}
    train(made)
    logged = [entry for entry in made.state.log_history if "loss" in entry]
    assert len(logged) == 2
    assert all(math.isfinite(entry["loss"]) for entry in logged)
    if kind == "dpo":
        assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert reference
    assert all(torch.equal(p, reference[n]) for n, p in made.model.named_parameters() if n in reference)
    after = weights(made.model)
    assert not any(torch.equal(start[name], after[name]) for name in start)
    save_folora_pretrained(made.model, stats, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(plain(tiny_model_folder), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), logits(made.model), atol=2e-4, rtol=0)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), logits(made.model), atol=2e-4, rtol=0)
    assert float((logits(plain(tiny_model_folder)) - logits(made.model)).abs().max()) > 1e-2


def ended(base: Path, out: Path, setup: Setup) -> dict[str, Tensor]:
    made = trainer(base, out, prepared(base, out.parent), setup)
    train(made)
    return weights(made.model)


def test_accumulated_and_recomputed_gradients_move_it_alike(tiny_model_folder, tmp_path):
    setup = Setup(dropout=0.0, window=2, steps=3, rows=16)
    usual = ended(tiny_model_folder, tmp_path / "usual", setup)
    larger = replace(setup, window=1, args=(("per_device_train_batch_size", 4),))
    assert distance(ended(tiny_model_folder, tmp_path / "larger", larger), usual) < 1e-3
    recomputed = ended(tiny_model_folder, tmp_path / "recomputed", replace(setup, checkpointing="on"))
    assert distance(recomputed, usual) < 1e-6


def test_under_bf16_autocast_it_moves_nearly_alike(tiny_model_folder, tmp_path):
    usual, mixed = (
        ended(tiny_model_folder, tmp_path / name, replace(QUIET, precision=name)) for name in ("fp32", "bf16 autocast")
    )
    assert 0 < distance(mixed, usual) < 0.3


@pytest.mark.parametrize("init", ["null_zero", "null_residual"])
def test_on_a_bf16_base_it_trains_and_ends_as_plain_lora(tiny_model_folder, tmp_path, init):
    stats = prepared(tiny_model_folder, tmp_path, init)
    made = trainer(tiny_model_folder, tmp_path / "run", stats, QUIET, dtype=torch.bfloat16)
    train(made)
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    assert {p.dtype for p in made.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {value.dtype for value in weights(made.model).values()} == {torch.float32}
    save_folora_pretrained(made.model, stats, tmp_path / "adapter")
    base = plain(tiny_model_folder).bfloat16()
    before, loaded = logits(base), PeftModel.from_pretrained(base, tmp_path / "adapter")
    moved, off = (float((logits(loaded) - other).float().square().mean()) for other in (before, logits(made.model)))
    assert off < 0.2 * moved


def test_the_schedule_is_the_trainers_and_the_peak_is_the_optimizers(tiny_model_folder, tmp_path):
    made = trainer(tiny_model_folder, tmp_path / "run", prepared(tiny_model_folder, tmp_path), replace(QUIET, steps=2))
    made.args.learning_rate = 5e-5
    train(made)
    rates = [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 0.5e-2])


@pytest.mark.parametrize("init", ["null_zero", "null_residual"])
def test_a_resumed_run_ends_with_the_same_bits_and_keeps_no_basis(tiny_model_folder, tmp_path, init):
    stats = prepared(tiny_model_folder, tmp_path, init)
    setup = Setup(steps=4, window=2, rows=16, args=(("save_strategy", "steps"), ("save_steps", 2)))
    whole = trainer(tiny_model_folder, tmp_path / "run", stats, setup)
    train(whole)
    again = trainer(tiny_model_folder, tmp_path / "again", type(stats).load(stats.path), setup)
    train(again, resume=tmp_path / "run" / "checkpoint-2")
    assert again.state.global_step == 4
    assert same_bits(weights(again.model), weights(whole.model))
    saved = torch.load(tmp_path / "run" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    kept = sum(value.numel() for each in saved["state"].values() for value in each.values())
    assert kept == sum(2 * p.numel() + 1 for p in weights(whole.model).values())


def launched(base: Path, out: Path, *cases: str) -> None:
    for init in ("null_zero", "null_residual"):
        prepared(base, out, init)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interventions.folora.runs", str(base), str(out), *cases],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_end_alike_and_as_one(tiny_model_folder, tmp_path):
    cases = ("plain", "null_residual", "factory", "whole", "sharded")
    launched(tiny_model_folder, tmp_path, *cases)
    found = {case: [load_file(tmp_path / f"{case}.{rank}.safetensors") for rank in range(WORLD)] for case in cases}
    assert all(same_bits(*each) for each in found.values())
    assert same_bits(found["plain"][0], found["factory"][0])
    assert distance(found["sharded"][0], found["whole"][0]) < 1e-6  # FSDP2 keeps the rows of A whole
    one = trainer(tiny_model_folder, tmp_path / "one", prepared(tiny_model_folder, tmp_path), ranks(single=True))
    train(one)
    assert distance(found["plain"][0], weights(one.model)) < 1e-3
