from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

from limberlm.observe import locate
from limberlm.observe.model.mlp import locate_mlp
from tests.observe.architectures import IDS, MEASURED, build, inputs, read

EXPERTS = set(
    "mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v3 deepseek_v32 gpt_oss llama4_text granitemoe granitemoeshared "
    "olmoe flex_olmo phimoe jetmoe dbrx aria_text ernie4_5_moe glm4_moe cohere2_moe hunyuan_v1_moe exaone_moe minimax "
    "minimax_m2 mimo_v2_flash solar_open afmoe dots1 longcat_flash inkling_text jamba granitemoehybrid qwen3_next "
    "glm4_moe_lite glm_moe_dsa zaya qwen3_5_moe_text kimi_linear lfm2_moe llama4".split()
)
MIXING = {"mamba", "mamba2", "falcon_mamba", "zamba", "zamba2", "nemotron_h"}
UNITS = {  # others have the intermediate_size of the configuration, 56
    **dict.fromkeys(["gpt2", "gpt_bigcode", "bloom", "mpt", "gptj", "codegen", "gpt_neox_japanese", "xlstm"], 128),
    "recurrent_gemma": 28,
}


def units_of(sites, layers):
    """The units [b, t, m] of each block, and what each layer makes of them."""
    seen = []
    handles = [layer.register_forward_hook(lambda _, args, output: seen.append((args[0], output))) for layer in layers]
    with torch.no_grad():
        sites.forward(**inputs(IDS))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", sorted(MEASURED.keys() - EXPERTS - MIXING))
def test_units_are_as_many_as_the_mlp_has_and_one_layer_per_block_reads_them(name):
    sites = read(name).sites
    layers = locate_mlp(sites)
    assert not isinstance(layers, str), layers
    assert len(set(layers)) == len(sites.blocks)
    seen = units_of(sites, layers)
    assert [units.shape[-1] for units, _ in seen] == [UNITS.get(name, 56)] * len(sites.blocks)
    assert {tuple(output.shape[-1:]) for _, output in seen} == {(32,)}
    assert {units.numel() // units.shape[-1] for units, _ in seen} == {IDS.numel()}


@pytest.mark.parametrize("name", sorted(EXPERTS | MIXING))
def test_blocks_without_units_are_named_with_the_reason(name):
    reason = locate_mlp(read(name).sites)
    assert isinstance(reason, str)
    wanted = "is a mixture of experts" if name in EXPERTS else "has no MLP: all of it mixes tokens"
    assert reason.startswith("block.")
    assert reason.endswith(wanted)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi3", "falcon", "bloom", "gemma2"])
def test_the_mlp_writes_through_that_layer_only(name):
    """With that layer's weights at zero, the MLP's other weights no longer reach the output of the block."""
    model = build(name, MEASURED[name])
    sites = locate(model)
    layer = locate_mlp(sites)[0]
    block = sites.blocks[0]
    before = [module for path, module in block.named_modules() if _feeds(path, module, layer, block)]
    assert before

    def output():
        with sites.reading(["block.0"]) as states, torch.no_grad():
            sites.forward(**inputs(IDS))
        return states["block.0"]

    intact = output()
    with torch.no_grad():
        for module in before:
            module.weight.mul_(-1.5)
    changed = output()
    assert not torch.allclose(changed, intact)
    with torch.no_grad():
        layer.weight.zero_()
        silent = output()
        for module in before:
            module.weight.mul_(3)
    torch.testing.assert_close(output(), silent)


def _feeds(path, module, layer, block):
    """Whether a linear layer stands beside `layer`, in the same part of the block, and leads to its units."""
    paths = {inner: name for name, inner in block.named_modules()}
    beside = path.rpartition(".")[0] == paths[layer].rpartition(".")[0]
    return beside and module is not layer and getattr(module, "weight", torch.empty(0)).ndim == 2


def test_an_adapter_on_the_layer_keeps_its_units():
    plain = locate(build("llama", MEASURED["llama"]))
    wanted = units_of(plain, locate_mlp(plain))
    worn = locate(get_peft_model(build("llama", MEASURED["llama"]), LoraConfig(target_modules=["down_proj"])))
    layers = locate_mlp(worn)
    for (units, _), (expected, _) in zip(units_of(worn, layers), wanted, strict=True):
        torch.testing.assert_close(units, expected)
    assert all(hasattr(layer, "lora_A") for layer in layers)
