"""What merging costs, against the same sums in float64; and what a stage reports of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from limberlm.stages.hand_over import Left, checkpoint, unmerged
from limberlm.stages.hand_over.rounding import fixed_logits, fixed_tokens, merge_rounding
from tests.stages.conftest import Trained
from tests.stages.runs import load, lora, relative_rms, run_stage, update


@pytest.fixture
def adapter(tiny_model_folder: Path, tmp_path: Path) -> Left:
    return lora(tiny_model_folder, tmp_path / "a", 1)


def test_the_weights_share_is_the_rounding_of_the_sum(tiny_model_folder: Path, adapter: Left) -> None:
    found = merge_rounding(unmerged(tiny_model_folder, [adapter], "merge"))
    base, changes = load(tiny_model_folder).state_dict(), update(adapter.folder)
    merged = checkpoint(tiny_model_folder, [adapter], "merge").state_dict()
    size = sum(float(change.square().sum()) for change in changes.values()) ** 0.5

    def share(after: dict[str, torch.Tensor], before: dict[str, torch.Tensor]) -> float:
        errors = (after[name].double() - before[name].double() - change for name, change in changes.items())
        return sum(float(error.square().sum()) for error in errors) ** 0.5 / size

    assert found.weights == pytest.approx(share(merged, base), rel=1e-3)
    half = {name: base[name].bfloat16() for name in changes}
    rounded = {name: (weight.double() + changes[name]).bfloat16() for name, weight in half.items()}
    assert found.weights_bfloat16 == pytest.approx(share(rounded, half), rel=1e-3)


def test_the_logits_share_is_the_loss_of_function(tiny_model_folder: Path, adapter: Left) -> None:
    found = merge_rounding(unmerged(tiny_model_folder, [adapter], "merge"))
    off = fixed_logits(load(tiny_model_folder))
    on = fixed_logits(PeftModel.from_pretrained(load(tiny_model_folder), adapter.folder))
    merged = fixed_logits(checkpoint(tiny_model_folder, [adapter], "merge"))
    assert found.logits == pytest.approx(float((merged - on).norm() / (on - off).norm()), rel=1e-6)
    half = load(tiny_model_folder)
    changes = update(adapter.folder)
    for name, weight in half.state_dict().items():
        weight.copy_(weight.bfloat16() if name in changes else weight)
    off = fixed_logits(half)
    on = fixed_logits(PeftModel.from_pretrained(half, adapter.folder).merge_and_unload())  # in float32
    for name, weight in half.state_dict().items():
        weight.copy_(weight.bfloat16() if name in changes else weight)
    wanted = float((fixed_logits(half) - on).norm() / (on - off).norm())
    assert found.logits_bfloat16 == pytest.approx(wanted, rel=1e-3)


def test_a_smaller_adapter_loses_a_larger_share_and_float32_next_to_none(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    shares = [
        merge_rounding(
            unmerged(tiny_model_folder, [lora(tiny_model_folder, tmp_path / str(a), 1, lora_alpha=a)], "merge")
        )
        for a in (3, 0.3, 0.03)
    ]
    for share in shares:
        assert share.logits < 1e-3
        assert share.weights_bfloat16 > 1e3 * share.weights
    assert shares[0].weights_bfloat16 < 0.1
    assert shares[2].weights_bfloat16 > 0.3
    for one, ten_times_smaller in pairwise(shares):
        assert ten_times_smaller.weights == pytest.approx(10 * one.weights, rel=0.2)


def test_measuring_changes_no_weight(tiny_model_folder: Path, adapter: Left) -> None:
    model = unmerged(tiny_model_folder, [adapter], "merge")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    merge_rounding(model)
    after = model.state_dict()
    assert all(after[name].dtype == w.dtype and torch.equal(after[name], w) for name, w in before.items())


def test_of_an_adapter_that_does_nothing_no_share_is_defined(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "still", max_steps=1, learning_rate=0.0)
    assert set(asdict(run.hand_over.merge_rounding).values()) == {None}


def test_the_fixed_tokens_are_the_same_for_every_model_and_leave_the_random_state(tiny_model_folder: Path) -> None:
    model = load(tiny_model_folder)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(fixed_tokens(model), fixed_tokens(load(tiny_model_folder)))
    assert torch.equal(fixed_logits(model), fixed_logits(model))
    assert torch.equal(torch.get_rng_state(), before)
    assert fixed_tokens(model).shape == (2, 32)


def test_the_logits_are_read_in_evaluation_mode_and_outside_autocast(tiny_model_folder: Path) -> None:
    model = load(tiny_model_folder)
    wanted = fixed_logits(model)
    model.train()
    model.model.layers[0].mlp.down_proj.register_forward_hook(
        lambda module, inputs, output: torch.nn.functional.dropout(output, 0.5, module.training)
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fixed_logits(model), wanted)
    assert model.training


def test_a_stage_reports_what_its_adapter_loses(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "dpo", "dpo", adapters=[sft.adapter])
    rounding = run.hand_over.merge_rounding
    assert rounding.logits < 1e-3 < rounding.logits_bfloat16
    assert rounding.weights < 1e-3 < rounding.weights_bfloat16
    written = json.loads(json.dumps(asdict(run.hand_over), allow_nan=False))
    assert written["policy"] == "merge"
    assert written["first_step"]["loss"] == [run.first_loss, pytest.approx(0.693147, abs=1e-6)]
    assert written["merge_rounding"]["weights"] == rounding.weights


def test_what_was_saved_is_what_was_trained(tiny_model_folder: Path, sft: Trained) -> None:
    loaded = unmerged(tiny_model_folder, [sft.run.left], "merge")
    assert relative_rms(fixed_logits(loaded), fixed_logits(sft.model)) < 1e-6
