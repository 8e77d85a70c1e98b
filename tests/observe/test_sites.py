from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from limberlm.errors import UserError
from limberlm.observe import locate
from limberlm.observe.sites import band_sites, depth_of
from tests.observe.tiny import ARCHITECTURES, LAYERS, VOCABULARY, WIDTH, tiny

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sites_agree_with_the_models_own_hidden_states(name):
    model = tiny(name)
    sites = locate(model)
    assert len(sites.blocks) == LAYERS
    with sites.reading(sites.names()) as states, torch.no_grad():
        sites.forward(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    with torch.no_grad():
        hidden = model(IDS, output_hidden_states=True).hidden_states
    if name == "mamba":  # its tuple starts behind the first block
        hidden = (states["embed"], *hidden)
    assert list(states) == sites.names()
    torch.testing.assert_close(states["embed"], hidden[0])
    for i in range(LAYERS - 1):
        torch.testing.assert_close(states[f"block.{i}"], hidden[i + 1])
    torch.testing.assert_close(states["final_norm"], hidden[-1])
    assert not torch.allclose(states[f"block.{LAYERS - 1}"], states["final_norm"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox"])
def test_an_adapter_and_a_headless_model_have_the_same_sites(name):
    model = tiny(name)
    plain = locate(model)
    for other in (get_peft_model(model, LoraConfig(target_modules="all-linear")), model.base_model):
        found = locate(other)
        assert found.blocks is plain.blocks
        assert found.final_norm is plain.final_norm


def test_no_hook_stays_even_after_an_exception():
    model = tiny()
    sites = locate(model)

    def count():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    seen = []

    def interrupted():
        with sites.reading(sites.names()):
            seen.append(count())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert seen == [LAYERS + 2]
    assert count() == 0


def test_a_list_inside_a_block_is_not_taken_for_the_blocks():
    model = tiny()
    model.model.layers[0].experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))
    assert locate(model).blocks is model.model.layers


def test_what_cannot_be_located_is_refused_by_name():
    post_norm = OPTConfig(
        hidden_size=WIDTH,
        ffn_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=9,
        do_layer_norm_before=False,
    )
    pairs = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2, vocab_size=9)
    twins = tiny()
    twins.model.more = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(LAYERS))
    none = tiny()
    none.config.num_hidden_layers = 7
    prompt = get_peft_model(tiny(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    for model, message in [
        (OPTForCausalLM(post_norm), "OPTForCausalLM: cannot locate the final norm"),
        (T5ForConditionalGeneration(pairs), "T5ForConditionalGeneration: an encoder-decoder"),
        (twins, r"LlamaForCausalLM: cannot locate the blocks: 2 lists of 3 modules \(layers, more\)"),
        (none, "LlamaForCausalLM: cannot locate the blocks: 0 lists of 7 modules"),
        (torch.nn.Linear(2, 2), "Linear: not a transformers model"),
        (prompt, "adapter changes the prompt"),
    ]:
        with pytest.raises(UserError, match=message):
            locate(model)


def test_layers_pick_blocks_in_depth_order():
    sites = locate(tiny())
    assert sites.names([-1, 0, 2]) == ["embed", "block.0", "block.2", "final_norm"]
    assert sites.names([]) == ["embed", "final_norm"]
    with pytest.raises(UserError, match="layers: 3 does not exist; the model has blocks 0 to 2"):
        sites.names([0, 3])


@pytest.mark.parametrize("layers", range(1, 50))
def test_the_band_is_50_to_85_percent_or_the_nearest_block(layers):
    depths = [depth_of(f"block.{i}", layers) for i in range(layers)]
    found = [depth_of(site, layers) for site in band_sites(layers)]
    assert found == ([d for d in depths if 0.5 <= d <= 0.85] or [min(depths, key=lambda d: abs(d - 0.675))])


def test_sizes_of_the_tiny_models_are_as_told():
    assert tiny().get_input_embeddings().weight.shape == (VOCABULARY, WIDTH)
