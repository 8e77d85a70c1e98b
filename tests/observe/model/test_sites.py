from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import OPTConfig, OPTForCausalLM, T5Config, T5ForConditionalGeneration

from limberlm.errors import UserError
from limberlm.observe import locate, measure
from limberlm.observe.names import band_sites, depth_of
from tests.observe.architectures import inputs, states_of
from tests.observe.tiny import LAYERS, VOCABULARY, WIDTH, assert_same_bits, random_probe, tiny

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
PROBE = random_probe(16)
LAST_PLACE = 8  # weights that lie elsewhere in memory are summed in another order on some processors


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
    assert seen == [LAYERS + 3]  # one more tells that a forward begins
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


class Flat(torch.nn.Module):
    """A block that joins batch and length."""

    def forward(self, hidden_states, **_):
        return hidden_states.flatten(0, 1)


class Pair(torch.nn.Module):
    """A block that hands on something other than a state."""

    def forward(self, hidden_states, **_):
        return {"hidden_states": hidden_states}


def test_a_block_that_gives_no_state_per_token_is_refused_by_site():
    for block, message in [
        (Flat(), r"LlamaModel: cannot be read: block.2 is not one state per token \(\[8, 40\] for \[2, 4\] tokens\)"),
        (Pair(), "LlamaModel: cannot be read: block.2 is dict, not a tensor"),
    ]:
        model = tiny()
        model.model.layers[2] = block
        sites = locate(model)
        with pytest.raises(UserError, match=message), sites.reading(sites.names()), torch.no_grad():
            sites.forward(**inputs(IDS))


def test_a_block_that_runs_twice_in_a_forward_is_refused():
    model = tiny()
    model.model.layers[2] = model.model.layers[1]
    sites = locate(model)
    message = "LlamaModel: cannot be read: block.1 runs more than once in a forward"
    with pytest.raises(UserError, match=message), sites.reading(["block.1"]), torch.no_grad():
        sites.forward(**inputs(IDS))


def test_states_of_several_forwards_do_not_count_as_one():
    sites = locate(tiny())
    with sites.reading(sites.names()) as states, torch.no_grad():
        sites.forward(**inputs(IDS))
        first = dict(states)
        sites.forward(**inputs(IDS + 1))
    assert list(states) == sites.names()
    assert not torch.equal(states["block.1"], first["block.1"])


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_by_block(model):
    for block in model.model.layers:
        block.compile(backend="eager")
    return model


def compiled_blocks(model):
    for number, block in enumerate(model.model.layers):
        model.model.layers[number] = compiled(block)
    return model


def compiled_backbone(model):
    model.model = compiled(model.model)
    return model


def with_adapter(model):
    return get_peft_model(model, LoraConfig(target_modules="all-linear"))  # new adapters add nothing


def with_checkpointing(model):
    model.gradient_checkpointing_enable()
    return model.train()


def dispatched(model):
    return dispatch_model(model, device_map={"": "cpu"}, force_hooks=True)


WRAPPERS = {
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled by block": compiled_by_block,
    "compiled blocks": compiled_blocks,
    "compiled backbone": compiled_backbone,
    "adapter": with_adapter,
    "compiled adapter": lambda model: compiled(with_adapter(model)),
    "adapter on compiled": lambda model: with_adapter(compiled(model)),
    "data parallel": torch.nn.DataParallel,
    "checkpointing": with_checkpointing,
    "dispatched": dispatched,
}
OFFLOADED = {
    "offloaded": lambda model, _: cpu_offload(model, execution_device="cpu"),
    "on disk": lambda model, folder: disk_offload(model, str(folder), execution_device="cpu"),
    "partly on disk": lambda model, folder: dispatch_model(
        model, {"model": "cpu", "lm_head": "disk"}, main_device="cpu", offload_dir=str(folder), force_hooks=True
    ),
}


@pytest.fixture(scope="module")
def plain():
    return measure(tiny(), PROBE, layers=[1]).table


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_has_the_geometry_of_the_plain_one(wrapper, plain):
    assert_same_bits(measure(WRAPPERS[wrapper](tiny()), PROBE, layers=[1]).table, plain, LAST_PLACE)


@pytest.mark.parametrize("wrapper", OFFLOADED)
def test_an_offloaded_model_has_the_geometry_of_the_plain_one(wrapper, plain, tmp_path):
    model = OFFLOADED[wrapper](tiny(), tmp_path)
    assert locate(model).device == torch.device("cpu")
    assert_same_bits(measure(model, PROBE, layers=[1]).table, plain, LAST_PLACE)
    assert any(parameter.is_meta for parameter in model.parameters())


def test_a_model_compiled_and_run_before_is_read_without_compiling_again():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = tiny()
    for block in model.model.layers:
        block.compile(backend=backend)
    with torch.no_grad():
        model(IDS)
    made = len(graphs)
    assert made > 0
    states = states_of(locate(model), **inputs(IDS[:, :3]))
    for site, state in states_of(locate(tiny()), **inputs(IDS[:, :3])).items():
        assert torch.equal(states[site], state)
    assert len(graphs) == made


def test_bfloat16_weights_give_bfloat16_states_and_nearly_the_same_geometry(plain):
    found = measure(tiny().to(torch.bfloat16), PROBE, layers=[1])
    assert found.manifest["convention"]["dtype"] == "bfloat16"
    keys = ["site", "convention", "metric"]
    ranks = [t[(t["metric"] == "effective_rank") & (t["convention"] == "rms")] for t in (plain, found.table)]
    both = ranks[0].merge(ranks[1], on=keys)
    assert len(both) == len(ranks[0]) > 0
    assert (both["value_x"] / both["value_y"] - 1).abs().max() < 0.02


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
