from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from limberlm.geometry.low_rank import Factored
from limberlm.interventions.refresh.layers import pairs
from limberlm.interventions.refresh.shrink import shrink, shrunk, shrunk_product
from tests.interventions.refresh.runs import lora


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adapted(model: LlamaForCausalLM, seed: int | None = None, **settings: Any) -> nn.Module:
    """A model in float64 with an adapter on it: fresh, or with values for B too."""
    made = get_peft_model(model.double(), lora(**settings)).double()
    if seed is not None:
        fill(made, seed)
    return made


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Random values for the adapter."""
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if "lora_" in name:
            parameter.copy_(0.1 * random(*parameter.shape, seed=1000 * seed + number))


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def updates(model: nn.Module) -> dict[str, torch.Tensor]:
    return {pair.module: pair.layer.get_delta_weight("default").detach().clone() for pair in pairs(model)}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_weight_form_is_exact_and_interpolated_factors_are_off_by_the_product_of_changes(
    seed: int, rho: float
) -> None:
    B, A, B0, A0 = (random(*shape, seed=seed + n) for n, shape in enumerate([(6, 2), (2, 5), (6, 2), (2, 5)]))
    scale = 1.7
    exact = scale * (B0 @ A0 + (1 - rho) * (B @ A - B0 @ A0))
    found = shrunk_product(Factored(B, A, scale), Factored(B0, A0, scale), rho)
    assert found.inner_dimension == 4
    assert (found.dense() - exact).abs().max() < 1e-12
    interpolated = scale * shrunk(B, B0, rho) @ shrunk(A, A0, rho)
    off = -scale * rho * (1 - rho) * (B - B0) @ (A - A0)
    assert (interpolated - exact - off).abs().max() < 1e-12


def test_full_weights_go_back_by_their_share(tiny_model: LlamaForCausalLM) -> None:
    model = tiny_model.double()
    start = values(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * random(*parameter.shape, seed=parameter.numel()))
    before = values(model)
    said = shrink(model, start, 0.3, 0.0, 0)
    size = sum(float((0.7 * (before[name] - start[name])).square().sum()) for name in start) ** 0.5
    assert said == pytest.approx({"norm": size}, rel=1e-12)
    for name, now in values(model).items():
        assert (now - start[name] - 0.7 * (before[name] - start[name])).abs().max() < 1e-12


def test_a_fresh_adapter_s_update_is_scaled_by_exactly_one_minus_rho_through_b_alone(
    tiny_model: LlamaForCausalLM,
) -> None:
    model = adapted(tiny_model)
    start = values(model)
    fill(model, 1)
    before, factors = updates(model), values(model)
    said = shrink(model, start, 0.3, 0.0, 0)
    size = sum(float((0.7 * update).square().sum()) for update in before.values()) ** 0.5
    assert said == pytest.approx({"norm": size}, rel=1e-9)
    for name, now in updates(model).items():
        assert (now - 0.7 * before[name]).abs().max() < 1e-15
    for name, now in values(model).items():
        assert torch.equal(now, factors[name] * 0.7 if "lora_B" in name else factors[name])


def test_a_continued_adapter_gets_the_best_factors_of_the_weight_form_and_says_what_they_leave_out(
    tiny_model: LlamaForCausalLM,
) -> None:
    model = adapted(tiny_model, seed=1)
    start, begun = values(model), updates(model)
    fill(model, 2)
    learnt, rho = updates(model), 0.3
    interpolated = {}
    for pair in pairs(model):
        factors = shrunk(pair.B, start[pair.B_name], rho) @ shrunk(pair.A, start[pair.A_name], rho)
        interpolated[pair.module] = pair.scale * factors.detach()
    said = shrink(model, start, rho, 0.0, 0)
    missing = size = moved = 0.0
    for name, now in updates(model).items():
        exact = begun[name] + (1 - rho) * (learnt[name] - begun[name])
        singular = torch.linalg.svdvals(exact)
        error = float((now - exact).norm())
        assert abs(error - float(singular[4:].norm())) < 1e-12
        assert error < float((interpolated[name] - exact).norm())
        missing, size = missing + error**2, size + float(exact.square().sum())
        moved += float((now - begun[name]).square().sum())
    assert said == pytest.approx({"left_out": (missing / size) ** 0.5, "norm": moved**0.5}, rel=1e-9)
    assert said["left_out"] > 0.01


def test_a_continued_adapter_that_only_grew_along_itself_loses_nothing(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model, seed=1)
    start, begun = values(model), updates(model)
    with torch.no_grad():
        for pair in pairs(model):
            pair.B.mul_(3.0)
    assert shrink(model, start, 0.5, 0.0, 0)["left_out"] < 1e-12
    for name, now in updates(model).items():
        torch.testing.assert_close(now, 2.0 * begun[name], rtol=0, atol=1e-12)


def test_a_reference_adapter_stays(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    start = values(model)
    model.add_adapter("ref", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    fill(model, 1)
    frozen = {name: p.clone() for name, p in model.named_parameters() if ".ref." in name}
    assert frozen
    shrink(model, start, 0.5, 0.5, 0)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if ".ref." in name)


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_noise_has_its_size_is_drawn_from_the_seed_and_touches_no_random_state(
    tiny_model: LlamaForCausalLM, adapter: bool
) -> None:
    model = adapted(tiny_model) if adapter else tiny_model.double()
    start = values(model)
    with torch.no_grad():
        for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            parameter.add_(random(*parameter.shape, seed=number))
    learnt, state = values(model), torch.get_rng_state()

    def perturbed(seed: int, noise: float) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in learnt:
                    parameter.copy_(learnt[name])
        shrink(model, start, 0.2, noise, seed)
        return values(model)

    plain, once, again, other = perturbed(0, 0.0), perturbed(0, 0.5), perturbed(0, 0.5), perturbed(1, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in plain.items():
        assert torch.equal(once[name], again[name])
        if adapter and "lora_A" in name:
            assert torch.equal(once[name], value)
            continue
        assert not torch.equal(once[name], other[name])
        change = value - (0 if adapter else start[name])
        size = float((once[name] - value).square().mean().sqrt() / change.square().mean().sqrt())
        assert abs(size - 0.5) < 2.5 / value.numel() ** 0.5
