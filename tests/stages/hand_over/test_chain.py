"""The checkpoint after any chain of stages, and the update of any stage of it, against the sums done by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from limberlm.observe.updates.measurement import measure_updates
from limberlm.stages.hand_over import HandOver, Left, checkpoint
from limberlm.stages.hand_over.update_chain import UpdateChain, stage_update
from tests.stages.runs import load, lora, update

Weights = dict[str, torch.Tensor]
POLICIES = pytest.mark.parametrize("policy", ["merge", "continue", "stack"])


def full(model: Path, out: Path, seed: int) -> Left:
    """A model whose every weight moved at random, saved."""
    moved = load(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    moved.save_pretrained(out)
    return Left("full", out)


def exact(weights: Weights, *adapters: Left) -> Weights:
    """Weights plus the adapters, in float64."""
    total = {name: weight.double() for name, weight in weights.items()}
    for adapter in adapters:
        for name, change in update(adapter.folder).items():
            total[name] = total[name] + change
    return total


def same(model: LlamaForCausalLM, wanted: Weights, tolerance: float = 1e-6) -> bool:
    found = model.state_dict()
    return found.keys() == wanted.keys() and all(
        float((weight.double() - wanted[name]).abs().max()) <= tolerance for name, weight in found.items()
    )


@pytest.fixture
def chain(tiny_model_folder: Path, tmp_path: Path) -> list[Left]:
    """Two adapters, a full stage and two adapters more."""
    make = {1: lora, 2: lora, 3: full, 4: lora, 5: lora}
    return [stage(tiny_model_folder, tmp_path / f"s{seed}", seed) for seed, stage in make.items()]


@POLICIES
def test_a_checkpoint_is_the_last_full_weights_and_the_adapters_that_count(
    tiny_model_folder: Path, chain: list[Left], policy: HandOver
) -> None:
    base, (a, b, f, c, d) = load(tiny_model_folder).state_dict(), chain
    retrained = load(f.folder).state_dict()
    both, last = ((a, b), (c, d)) if policy != "continue" else ((b,), (d,))
    for left, wanted in [
        ([], exact(base)),
        ([a], exact(base, a)),
        ([a, b], exact(base, *both)),
        ([a, b, f], exact(retrained)),
        ([a, b, f, c], exact(retrained, c)),
        ([a, b, f, c, d], exact(retrained, *last)),
    ]:
        assert same(checkpoint(tiny_model_folder, left, policy), wanted)


@POLICIES
def test_a_checkpoint_is_the_same_bits_whoever_builds_it_and_leaves_no_trace_of_peft(
    tiny_model_folder: Path, chain: list[Left], policy: HandOver
) -> None:
    one, two = (checkpoint(tiny_model_folder, chain, policy) for _ in range(2))
    assert type(one) is LlamaForCausalLM
    assert all(torch.equal(weight, two.state_dict()[name]) for name, weight in one.state_dict().items())
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in one.parameters())
    assert not [module for module in one.modules() if module.training]
    assert one.lm_head.weight is one.model.embed_tokens.weight


def test_merge_and_stack_are_one_checkpoint(tiny_model_folder: Path, chain: list[Left]) -> None:
    merged, stacked = (checkpoint(tiny_model_folder, chain, policy).state_dict() for policy in ("merge", "stack"))
    assert all(torch.equal(weight, stacked[name]) for name, weight in merged.items())


def test_a_16_bit_base_is_handed_over_in_float32(tiny_model_folder: Path, tmp_path: Path) -> None:
    half = load(tiny_model_folder).bfloat16()
    half.save_pretrained(tmp_path / "half")
    adapter = lora(tiny_model_folder, tmp_path / "a", 1, lora_alpha=0.02)  # too small for 16 bits
    found = checkpoint(tmp_path / "half", [adapter], "merge")
    assert same(found, exact(half.state_dict(), adapter))


# --- the update of one stage


def norms(chain: UpdateChain) -> dict[str, float]:
    """The norm of the last stage's update by module, as `measure_updates` finds it."""
    found = measure_updates(chain.stages, chain.base, hand_over=chain.hand_over, intruders=False)
    stage = list(dict.fromkeys(found.table["stage"]))
    last = found.manifest["stages"][-1]["stage"]
    assert last in stage
    rows = found.table[(found.table["metric"] == "update_norm") & (found.table["stage"] == last)]
    return dict(zip(rows["module"], rows["value"], strict=True))


@POLICIES
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_the_update_of_any_stage_is_the_step_between_its_checkpoints(
    tiny_model_folder: Path, tmp_path: Path, chain: list[Left], policy: HandOver, stages: int
) -> None:
    *previous, last = chain[:stages]
    found = norms(stage_update(last, previous, base=tiny_model_folder, hand_over=policy, scratch=tmp_path / "scratch"))
    before = checkpoint(tiny_model_folder, previous, policy).state_dict()
    after = checkpoint(tiny_model_folder, [*previous, last], policy).state_dict()
    steps = {
        name.removesuffix(".weight"): float((w.double() - before[name].double()).norm()) for name, w in after.items()
    }
    assert len(found) >= 2 * 7
    for module, norm in found.items():
        assert norm == pytest.approx(steps[module], rel=1e-5)


def test_full_weights_after_adapters_need_a_model_written_and_others_do_not(
    tiny_model_folder: Path, tmp_path: Path, chain: list[Left]
) -> None:
    a, b, f, c, d = chain
    scratch, settings = tmp_path / "scratch", {"base": tiny_model_folder, "hand_over": "merge"}
    cases = [([a, b], (a, b), tiny_model_folder), ([a, b, f, c], (c,), f.folder), ([a, b, f, c, d], (c, d), f.folder)]
    for left, stages, base in cases:
        found = stage_update(left[-1], left[:-1], scratch=scratch, **settings)
        assert found == UpdateChain(tuple(stage.folder for stage in stages), base, "merge")
        assert not scratch.exists()
    assert stage_update(f, [a, b], scratch=scratch, **settings) == UpdateChain((f.folder,), scratch, "merge")
    start = checkpoint(tiny_model_folder, [a, b], "merge").state_dict()
    written = load_file(scratch / "model.safetensors")
    assert all(torch.equal(weight, start[name]) for name, weight in written.items())


def test_two_full_stages_are_one_chain(tiny_model_folder: Path, tmp_path: Path) -> None:
    stages = [full(tiny_model_folder, tmp_path / str(seed), seed) for seed in (1, 2)]
    found = stage_update(stages[1], stages[:1], base=tiny_model_folder, hand_over="merge", scratch=tmp_path / "s")
    assert found == UpdateChain((stages[0].folder, stages[1].folder), tiny_model_folder, "merge")
    assert all(math.isfinite(norm) and norm > 0 for norm in norms(found).values())
