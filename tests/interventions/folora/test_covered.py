from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, Phi3Config, Phi3ForCausalLM

from limberlm.errors import UserError
from limberlm.interventions.folora.base import base_digest, plain_name
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.covered import covered
from limberlm.interventions.folora.sharing import shared_inputs
from tests.interventions.folora.models import DOWN, GATE, Q, gpt2, llama


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings)


def found(model: nn.Module | None = None, config: FoloraConfig | None = None, **settings: Any) -> dict[str, Any]:
    return covered(model or llama(), lora(**settings), config or FoloraConfig())


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": None},
        {"target_modules": ["q_proj", "c_attn"]},
        {"target_modules": r".*\.(down_proj|c_fc)"},
        {"layers_to_transform": 1, "target_modules": ["q_proj", "c_attn"]},
        {"exclude_modules": ["o_proj", "c_proj"]},
        {"rank_pattern": {"q_proj": 2, "h.1.attn.c_attn": 3}, "use_rslora": True},
    ],
)
def test_it_is_what_peft_adapts(make: Any, settings: dict[str, Any]) -> None:
    given = lora(**settings)
    before = str(given)
    mine = covered(make(), given, FoloraConfig())
    assert str(given) == before
    adapted = get_peft_model(make(), lora(**settings))
    layers = {plain_name(name): layer for name, layer in adapted.named_modules() if isinstance(layer, LoraLayer)}
    assert list(mine) == list(layers)
    for name, layer in layers.items():
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert (mine[name].rank, mine[name].shape) == (layer.r["default"], (B.shape[0], A.shape[1]))


def test_of_an_adapted_model_the_layers_around_the_projections_are_covered() -> None:
    model = get_peft_model(llama(), lora())
    mine = covered(model, lora(target_modules=["q_proj"]), FoloraConfig())
    assert list(mine) == [Q, Q.replace("0", "1")]
    assert isinstance(mine[Q].module, LoraLayer)


def test_the_digest_tells_bases_apart_and_not_wrappers_or_types() -> None:
    known = base_digest(llama(torch.float32))
    assert base_digest(llama(torch.bfloat16)) == known
    wrapped = get_peft_model(llama(torch.float32), lora(modules_to_save=["lm_head"]))
    assert base_digest(wrapped) == known
    assert base_digest(llama(torch.float32, seed=1)) != known
    changed = llama(torch.float32)
    with torch.no_grad():
        changed.get_submodule(DOWN).weight.mul_(1.05)
    assert base_digest(changed) != known


def test_the_digest_does_not_see_in_which_order_quantised_weights_are_stored() -> None:
    """As bitsandbytes changes it, where a CPU reads them."""
    model, codes = llama(torch.float32), torch.arange(16 * 12, dtype=torch.uint8).reshape(-1, 1)
    weight = model.get_submodule(Q).weight.requires_grad_(False)
    known = set()
    for stored in (codes, codes.flip(0).reshape(16, 12), codes + 16):
        weight.data = stored
        known.add(base_digest(model))
    assert len(known) == 2


def tied_blocks() -> nn.Module:
    model = llama()
    model.model.layers[1].mlp.down_proj.weight = model.model.layers[0].mlp.down_proj.weight
    return model


def quantised() -> nn.Module:
    model = llama()
    for parameter in (model.get_submodule(Q).weight,):
        parameter.requires_grad_(False)
        parameter.data = torch.zeros(parameter.shape, dtype=torch.uint8)
    return model


def mixtral() -> nn.Module:
    config = MixtralConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        vocab_size=50,
    )
    return MixtralForCausalLM(config)


def spread() -> nn.Module:
    model = llama()
    model.get_submodule(DOWN).weight.ds_id = 1  # as DeepSpeed marks weights whose values lie elsewhere
    return model


REFUSED: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "dora": (llama, {"use_dora": True}, {}, "use_dora: its change is not scale x B A"),
    "parameters": (
        llama,
        {"target_modules": None, "target_parameters": ["mlp.x"]},
        {},
        "target_parameters: mlp.x of llama have no one input",
    ),
    "experts": (
        mixtral,
        {"target_modules": ["q_proj", "w1", "w2", "w3"]},
        {},
        "target_parameters: down_proj, gate_up_proj of mixtral have no one input",
    ),
    "all experts": (mixtral, {}, {}, "target_parameters: down_proj, gate.weight, gate_up_proj of mixtral"),
    "half an expert": (mixtral, {"target_modules": ["w1"]}, {}, "target_modules: Cannot convert PEFT target"),
    "replication": (llama, {"layer_replication": [(0, 2), (1, 2)]}, {}, "layer_replication: "),
    "saved": (llama, {"modules_to_save": ["lm_head"]}, {}, "modules_to_save: trained without a basis"),
    "bias": (llama, {"bias": "all"}, {}, "bias: all: trained without a basis"),
    "lora bias": (llama, {"lora_bias": True}, {}, "lora_bias: trained without a basis"),
    "both": (llama, {"bias": "all", "modules_to_save": ["lm_head"]}, {}, "modules_to_save, bias: all: trained"),
    "tokens": (llama, {"trainable_token_indices": [1]}, {}, "trainable_token_indices: trained without a basis"),
    "embedding": (
        llama,
        {"target_modules": ["q_proj", "embed_tokens"]},
        {},
        r"target_modules: model.embed_tokens \(Embedding\) is no linear layer",
    ),
    "only unsupported": (
        llama,
        {"target_modules": ["embed_tokens"]},
        {"unprotected": "adamw"},
        r"target_modules: model.embed_tokens \(Embedding\) is no linear layer",
    ),
    "tied": (
        lambda: llama(tie_word_embeddings=True),
        {"target_modules": ["lm_head"]},
        {},
        "target_modules: lm_head shares its weight with model.embed_tokens",
    ),
    "repeated": (tied_blocks, {}, {}, f"target_modules: {DOWN} shares its weight with {DOWN.replace('0', '1')}"),
    "rank": (llama, {"r": 20, "target_modules": ["gate_proj"]}, {}, f"r: 20 for {GATE}, whose input is 16 wide"),
    "rank pattern": (llama, {"rank_pattern": {"down_proj": 25}}, {}, f"r: 25 for {DOWN}, whose input is 24 wide"),
    "nothing": (
        llama,
        {"target_modules": ["wq", "wk"]},
        {},
        "target_modules: wk, wq matches nothing; there are down_proj, ",
    ),
    "basis rank": (llama, {}, {"basis_rank": 17}, f"basis_rank: 17, and the input of {Q} is 16 wide"),
    "spread": (spread, {}, {}, f"{DOWN}: its weight is spread over processes"),
    "start": (llama, {"init_lora_weights": "pissa"}, {}, "init_lora_weights: pissa and init: null_zero are two starts"),
    "quantised": (
        quantised,
        {},
        {"init": "null_residual"},
        f'init: null_residual has to edit {Q}, which is quantised; use init="null_zero"',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_basis_covers_is_refused_in_one_line(case: str) -> None:
    make, settings, config, message = REFUSED[case]
    with pytest.raises(UserError, match=f"^{message}") as raised:
        found(make(), FoloraConfig(**config), **settings)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"trainable_token_indices": [1]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_unprotected_tensors_may_be_accepted(settings: dict[str, Any]) -> None:
    names = found(config=FoloraConfig(unprotected="adamw"), **settings)
    assert Q in names
    assert not any("embed" in name or "lm_head" in name for name in names)


def test_a_quantised_projection_may_start_from_zero_and_another_start_be_kept() -> None:
    assert Q in found(quantised())
    assert Q in found(config=FoloraConfig(init="keep"), init_lora_weights="pissa")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau_rel": 0}, r"tau_rel: .* greater than 0 \(got 0\)"),
        ({"tau_rel": -0.5}, r"tau_rel: .* greater than 0 \(got -0.5\)"),
        ({"tau_rel": float("nan")}, r"tau_rel: .* \(got nan\)"),
        ({"lam": -1}, r"lam: .* 0 \(got -1\)"),
        ({"s_min": 1.1}, r"s_min: .* 1 \(got 1.1\)"),
        ({"s_min": -0.1}, r"s_min: .* 0 \(got -0.1\)"),
        ({"basis_rank": 0}, r"basis_rank: .* greater than 0 \(got 0\)"),
        ({"basis_rank": 1.5}, "basis_rank: 1.5 is no share"),
        ({"basis_dtype": "bfloat16", "tau_rel": 1e-5}, "basis_dtype: bfloat16 is too coarse for tau_rel: 1e-05"),
        ({"init": "null_zeros"}, r'init: "null_zeros" is none of .* \(did you mean "null_zero"\?\)'),
        ({"lamda": 1}, r'lamda: unknown setting \(did you mean "lam"\?\)'),
    ],
)
def test_settings_out_of_range_are_refused_at_construction_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^FoloraConfig: {message}") as raised:
        FoloraConfig(**settings)
    assert "\n" not in str(raised.value)


def test_the_papers_settings_are_its_start_and_its_steps() -> None:
    paper, ours = FoloraConfig.paper().model_dump(), FoloraConfig().model_dump()
    assert {name: paper[name] for name in ours if paper[name] != ours[name]} == {
        "init": "null_residual",
        "step_scale": "raw",
    }


def test_projections_that_are_fused_into_one_have_one_input() -> None:
    config = Phi3Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        pad_token_id=0,
    )
    model = Phi3ForCausalLM(config)
    names = found(model)
    shapes = {name.rpartition(".")[2]: each.shape for name, each in names.items()}
    assert shapes == {"qkv_proj": (32, 16), "o_proj": (16, 16), "gate_up_proj": (48, 16), "down_proj": (16, 24)}
    inputs = shared_inputs(model, {name: each.module for name, each in names.items()})
    assert inputs == dict(zip(names, names, strict=True))


def test_attention_around_experts_is_covered() -> None:
    names = found(mixtral(), target_modules=["q_proj", "o_proj"])
    assert list(names) == ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"]
