from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from limberlm.geometry.low_rank import singular_bases
from limberlm.geometry.weights import intruder_dimensions
from limberlm.interventions.refresh.layers import pairs
from limberlm.interventions.refresh.spectral import damped_intruders, repair, restored_directions
from tests.interventions.refresh.test_shrink import adapted, fill, random, updates, values


def based(d_out: int, d_in: int, rank: int, seed: int = 0) -> torch.Tensor:
    """A weight whose last directions are free: rank below its size."""
    left, _ = torch.linalg.qr(random(d_out, rank, seed=seed))
    right, _ = torch.linalg.qr(random(d_in, rank, seed=seed + 1))
    return left * torch.arange(rank, 0, -1) @ right.T


def outside(vectors: torch.Tensor, seed: int) -> torch.Tensor:
    """A unit vector orthogonal to the columns."""
    free = random(vectors.shape[0], seed=seed)
    free = free - vectors @ (vectors.T @ free)
    return free / free.norm()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9), st.floats(0, 1), st.floats(0.05, 1))
def test_without_an_update_the_weight_stays(seed: int, d_out: int, d_in: int, kappa: float, share: float) -> None:
    weight = random(d_out, d_in, seed=seed)
    base = singular_bases(weight)
    for found in (damped_intruders(weight, base, kappa=kappa), restored_directions(weight, base, share=share)):
        assert (found.left @ found.right).abs().max() < 1e-12 if found.left.numel() else True
    assert damped_intruders(weight, base, kappa=kappa).directions == 0


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (40, 30)])
def test_a_planted_top_intruder_is_found_and_scaled_and_nothing_else_moves(shape: tuple[int, int]) -> None:
    weight = based(*shape, rank=5)
    base = singular_bases(weight)
    u, v = outside(base.left, 5), outside(base.right, 6)
    tuned = weight + 20.0 * torch.outer(u, v)
    assert float(intruder_dimensions(tuned, base)) == 1.0
    found = damped_intruders(tuned, base, kappa=0.7)
    assert found.directions == 1
    after = tuned + found.left @ found.right
    assert (after - weight - 14.0 * torch.outer(u, v)).abs().max() < 1e-12
    assert (torch.linalg.svdvals(after)[:6] - torch.tensor([14.0, 5, 4, 3, 2, 1])).abs().max() < 1e-12


def test_only_the_leading_directions_are_looked_at() -> None:
    weight = based(20, 20, rank=12)
    base = singular_bases(weight)
    small = weight + 0.5 * torch.outer(outside(base.left, 5), outside(base.right, 6))
    assert damped_intruders(small, base, k=10).directions == 0
    assert damped_intruders(small, base, k=13).directions == 1


def test_turned_leading_directions_are_turned_back_and_keep_their_sizes() -> None:
    weight = based(10, 8, rank=8)
    base = singular_bases(weight)
    turn, _ = torch.linalg.qr(torch.eye(10, dtype=torch.float64) + 0.02 * random(10, 10, seed=9))
    tuned = 1.5 * turn @ weight
    found = restored_directions(tuned, base, share=0.25)
    assert found.directions == 2
    now = singular_bases(tuned)
    rest = (now.left[:, 2:] * now.values[2:]) @ now.right[:, 2:].T
    wanted = rest + (base.left[:, :2] * now.values[:2]) @ base.right[:, :2].T
    assert (tuned + found.left @ found.right - wanted).abs().max() < 1e-12
    everything = restored_directions(tuned, base, share=1.0)
    assert (tuned + everything.left @ everything.right - 1.5 * weight).abs().max() < 1e-12


def plant(model: nn.Module, size: float) -> None:
    """Give every module's update one strong direction that the weight does not have, and some noise beside it."""
    with torch.no_grad():
        for number, pair in enumerate(pairs(model)):
            base = singular_bases(pair.weight)
            u = outside(base.left[:, : base.left.shape[0] // 2], number) * size * float(base.values[0]) / pair.scale
            pair.B.copy_(0.01 * random(*pair.B.shape, seed=number))
            pair.A.copy_(0.01 * random(*pair.A.shape, seed=number + 1))
            pair.B[:, 0] = u
            pair.A[0] = random(pair.A.shape[1], seed=number + 2) / pair.A.shape[1] ** 0.5


def test_a_repaired_adapter_has_the_update_that_peft_gives_it(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    start = values(model)
    plant(model, 2.0)
    reduce_intruder_dimension(model, mitigation_lambda=0.7, logging_sink=None)
    theirs = {pair.module: pair.layer.get_delta_weight("intruder_reduced").detach().clone() for pair in pairs(model)}
    model.set_adapter("default")
    before = updates(model)
    said = repair(model, start, 1.0, damped_intruders)
    changed = [name for name, now in updates(model).items() if not torch.equal(now, before[name])]
    assert 5 <= len(changed) <= said["directions"]  # of 14: in 16 free dimensions some resemble a vector by chance
    for name, now in updates(model).items():
        torch.testing.assert_close(now, theirs[name], rtol=0, atol=1e-10)


def test_a_repaired_adapter_says_what_its_rank_left_out(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    start = values(model)
    fill(model, 3)
    before = updates(model)
    said = repair(model, start, 1.0, partial(restored_directions, share=0.2))
    added = missing = wanted = 0.0
    learnt = sum(float(update.square().sum()) for update in before.values())
    for pair in pairs(model):
        weight = pair.weight + before[pair.module]
        change = restored_directions(weight, singular_bases(pair.weight), share=0.2)
        exact = before[pair.module] + change.left @ change.right
        added += float((change.left @ change.right).square().sum())
        wanted += float(exact.square().sum())
        missing += float(torch.linalg.svdvals(exact)[4:].square().sum())
    assert said["moved"] == pytest.approx((added / learnt) ** 0.5, rel=1e-9)
    assert said["left_out"] == pytest.approx((missing / wanted) ** 0.5, rel=1e-9)


def test_a_continued_adapter_is_compared_with_where_it_began(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    plant(model, 2.0)
    start, before = values(model), updates(model)
    assert repair(model, start, 1.0, damped_intruders)["directions"] == 0  # its intruders are an earlier stage's
    with torch.no_grad():
        for pair in pairs(model):
            pair.B[:, 1] += 0.001
    assert repair(model, start, 1.0, damped_intruders)["directions"] == 0
    assert all((now - before[name]).abs().max() < 0.01 for name, now in updates(model).items())


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=4, n_head=2, vocab_size=50, n_positions=32)).double()


@pytest.mark.parametrize("layers", [1.0, 0.25])
def test_full_weights_are_repaired_exactly_in_the_first_blocks_alone(layers: float) -> None:
    model: Any = gpt2()
    start = values(model)
    with torch.no_grad():
        for number, block in enumerate(model.transformer.h):
            weight = block.mlp.c_proj.weight  # Conv1D: [d_in, d_out]
            base = singular_bases(weight.T)
            weight.copy_((0.01 * weight.T + 5 * torch.outer(random(16, seed=number), random(64, seed=9 + number))).T)
            assert base.rank == 16
    before = values(model)
    said = repair(model, start, layers, partial(damped_intruders, threshold=0.99))
    touched = [name for name, value in values(model).items() if not torch.equal(value, before[name])]
    blocks = 4 if layers == 1.0 else 1
    assert touched == [f"transformer.h.{number}.mlp.c_proj.weight" for number in range(blocks)]
    assert said["directions"] >= blocks
    assert "left_out" not in said
    for name in touched:
        found = damped_intruders(before[name].T, singular_bases(start[name].T), threshold=0.99)
        wanted = before[name].T + found.left @ found.right
        assert (values(model)[name].T - wanted).abs().max() < 1e-12


def test_what_was_not_trained_is_not_repaired() -> None:
    model = gpt2()
    before = values(model)
    assert repair(model, before, 1.0, restored_directions) == {"directions": 0.0}
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())
