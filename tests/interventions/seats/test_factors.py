"""Which trained parameters are the factors of one LoRA update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from limberlm.errors import UserError
from limberlm.interventions.seats.factors import Factors, alike, stacked, trained_factors
from tests.observe.tiny import tiny


def adapted(model: Any, **settings: Any) -> Any:
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    return get_peft_model(model, LoraConfig(**config))


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def found(model: Any) -> list[Factors]:
    return trained_factors(model, trained(model), "test")


def test_every_pair_gives_the_change_that_peft_would_merge(tiny_model: LlamaForCausalLM) -> None:
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 3}, "modules_to_save": ["norm"]}
    for settings in ({}, {"use_rslora": True}, patterns, {"target_modules": ["embed_tokens", "q_proj"]}):
        model = adapted(tiny_model, **settings)
        parameters = trained(model)
        factors = found(model)
        assert {name for each in factors for name in (each.A, each.B)} == {n for n in parameters if "lora_" in n}
        for each in factors:
            torch.nn.init.normal_(parameters[each.B])
            layer = model.get_base_model().get_submodule(each.module)
            wanted = layer.get_delta_weight("default")
            product = each.scale * parameters[each.B] @ parameters[each.A]
            assert torch.allclose(product, wanted.T if "embed" in each.module else wanted, atol=1e-5)
            assert each.shape == (*parameters[each.B].shape, parameters[each.A].shape[1])
        tiny_model = model.unload()


def test_conv1d_layers_have_the_same_factors() -> None:
    gpt2: GPT2LMHeadModel = tiny("gpt2")
    model = adapted(gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    assert {each.shape for each in found(model)} == {(120, 4, 40)}


def test_without_an_adapter_there_are_none(tiny_model: LlamaForCausalLM) -> None:
    assert found(tiny_model) == []


def test_a_frozen_copy_is_no_second_adapter_and_a_trained_one_is_refused(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    model.add_adapter("ref", model.peft_config["default"])
    model.set_adapter("default")
    assert all(".default." in each.A for each in found(model))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)
    with pytest.raises(UserError, match=r"^test: the adapters default and ref are both trained"):
        found(model)


def test_half_a_pair_and_dora_are_refused(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    with pytest.raises(UserError, match=r"^test: of model.layers.0.self_attn.q_proj only the factor B is trained"):
        found(model)
    with pytest.raises(UserError, match=r"^test: .*lora_magnitude_vector.*: a DoRA adapter changes more than B A"):
        found(adapted(model.unload(), use_dora=True))


def test_like_shapes_are_stacked_in_a_type_that_keeps_digits(tiny_model: LlamaForCausalLM) -> None:
    model = adapted(tiny_model)
    groups = alike(found(model))
    assert sorted((len(group), group[0].shape) for group in groups) == [
        (2, (32, 4, 64)),
        (4, (64, 4, 32)),
        (8, (32, 4, 32)),
    ]
    names = [each.A for each in groups[0]]
    stack = stacked({name: p.bfloat16() for name, p in trained(model).items()}, names)
    assert stack.dtype == torch.float32
    assert not stack.requires_grad
    assert stacked({name: p.double() for name, p in trained(model).items()}, names).dtype == torch.float64
