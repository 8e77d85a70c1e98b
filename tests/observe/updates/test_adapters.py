from __future__ import annotations

import json
import random
from math import sqrt

import pytest
import torch
from safetensors.torch import load_file, save_file

from limberlm.errors import UserError
from limberlm.observe.model.weights import Checkpoint
from limberlm.observe.updates.adapters import Adapter, is_adapter
from limberlm.observe.updates.changes import Terms, adapter_changes
from limberlm.observe.updates.measurement import measure_updates
from tests.observe.adapted import base_folder, edit_config, edit_tensors, merged, save_adapter
from tests.observe.tiny import tiny

KINDS = {
    "plain": ("llama", {}),
    "no scale": ("llama", {"lora_alpha": 4}),
    "rslora": ("llama", {"use_rslora": True}),
    "patterns": (
        "llama",
        {
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 6},
            "alpha_pattern": {r".*\.0\..*q_proj": 3, "down_proj": 1},
        },
    ),
    "rslora patterns": ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 3}}),
    "dora": ("llama", {"use_dora": True}),
    "whole": ("llama", {"modules_to_save": ["lm_head", "o_proj"]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "head": ("llama", {"target_modules": ["lm_head", "q_proj"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv1d, flag forgotten": ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    "conv1d dora": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True}),
    "conv1d and linear": ("gpt2", {"target_modules": ["c_proj", "lm_head"], "fan_in_fan_out": True}),
    "bias": ("qwen2", {"bias": "all"}),
}


def refused(message, function, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_change_read_is_the_difference_that_pefts_own_merge_makes(kind, tmp_path):
    name, settings = KINDS[kind]
    untied = {"tie_word_embeddings": False}
    folder = save_adapter(tmp_path / "lora", model=tiny(name, **untied), **settings)
    base = Checkpoint.open(base_folder(tmp_path / "base", name, **untied))
    before = {key: value.double() for key, value in tiny(name, **untied).state_dict().items()}
    after = merged(folder, tiny(name, **untied))
    adapter = Adapter.open(folder)
    modules = [*adapter.lora, *adapter.whole]
    assert len(modules) >= 4
    for module in modules:
        expected = after[f"{module}.weight"] - before[f"{module}.weight"]
        expected = expected.T if base.transposed(module) else expected
        terms = Terms(base, intruders=False)
        change = adapter_changes(module, [adapter], terms)[0]
        # DoRA's row norms are taken in float32, as in training; PEFT's merge of a float64 model takes them in float64
        tolerance = 1e-6 if "dora" in kind else 1e-12
        assert (change.update.dense() - expected).norm() <= tolerance * expected.norm()
        weight = before[f"{module}.weight"]
        assert torch.equal(change.weight, weight.T if base.transposed(module) else weight)
        if "dora" not in kind and module not in adapter.whole:
            bare = adapter_changes(module, [adapter], Terms())[0]
            assert (bare.update.dense() - expected).norm() <= 1e-12 * expected.norm()
            assert bare.inner == adapter.config.r or settings.get("rank_pattern")


def test_scales_follow_the_configuration(tmp_path):
    name, settings = KINDS["patterns"]
    adapter = Adapter.open(save_adapter(tmp_path / "a", model=tiny(name), **settings))
    assert adapter.scale("model.layers.0.self_attn.q_proj") == 3 / 4
    assert adapter.scale("model.layers.1.self_attn.q_proj") == 8 / 2
    assert adapter.scale("model.layers.2.mlp.down_proj") == 1 / 6
    plain = Adapter.open(save_adapter(tmp_path / "b", use_rslora=True))
    assert plain.scale("model.layers.0.self_attn.q_proj") == 8 / sqrt(4)


def test_a_scaled_dora_that_never_trained_changed_nothing(tmp_path):
    base = Checkpoint.open(base_folder(tmp_path / "base"))
    adapter = Adapter.open(save_adapter(tmp_path / "dora", size=0.0, use_dora=True))
    for module in adapter.lora:
        assert adapter_changes(module, [adapter], Terms(base))[0].update.rank == 0


def test_what_is_no_weight_matrix_is_listed_with_its_reason(tmp_path):
    settings = {"modules_to_save": ["norm", "lm_head"], "lora_bias": True, "trainable_token_indices": [3, 4]}
    folder = save_adapter(tmp_path / "a", model=tiny(tie_word_embeddings=False), init_lora_weights=False, **settings)
    adapter = Adapter.open(folder)
    assert set(adapter.whole) == {"lm_head"}
    assert "model.norm.weight" in adapter.left_out
    assert "model.layers.0.self_attn.q_proj.lora_B.bias" in adapter.left_out
    assert any("trainable_tokens" in name for name in adapter.left_out)
    embedding = Adapter.open(save_adapter(tmp_path / "b", target_modules=["embed_tokens"]))
    assert "copy of the base's weight" in embedding.left_out["model.embed_tokens.base_layer.weight"]
    dora = Adapter.open(save_adapter(tmp_path / "c", target_modules=["embed_tokens", "q_proj"], use_dora=True))
    assert dora.left_out["model.embed_tokens"] == "DoRA on an embedding"


def test_the_initialisation_beside_an_adapter_is_read(tmp_path):
    folder = save_adapter(tmp_path / "a")
    save_adapter(folder / "init", seed=9)
    adapter = Adapter.open(folder)
    module = "model.layers.0.self_attn.q_proj"
    start = load_file(folder / "init" / "adapter_model.safetensors")[f"base_model.model.{module}.lora_A.weight"]
    assert torch.equal(adapter.read(module).start, start)
    edit_tensors(folder / "init", lambda tensors: tensors.pop(f"base_model.model.{module}.lora_B.weight"))
    refused("init/adapter_model.safetensors: .* has only one of the factors", Adapter.open, folder)


def test_an_adapter_that_started_inside_the_base_is_measured_from_its_start_only(tmp_path):
    folder = edit_config(save_adapter(tmp_path / "a"), init_lora_weights="pissa_niter_4")
    refused("init_lora_weights=pissa_niter_4 takes its start out of the base", Adapter.open, folder)
    save_adapter(folder / "init", seed=9)
    adapter, module = Adapter.open(folder), "model.layers.0.self_attn.q_proj"
    end, start = (load_file(place / "adapter_model.safetensors") for place in (folder, folder / "init"))
    ends, starts = (
        2
        * t[f"base_model.model.{module}.lora_B.weight"].double()
        @ t[f"base_model.model.{module}.lora_A.weight"].double()
        for t in (end, start)
    )
    torch.testing.assert_close(adapter.read(module).update.dense(), ends - starts, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "ADALORA", "PREFIX_TUNING"])
def test_other_peft_types_are_refused_by_name(kind, tmp_path):
    folder = edit_config(save_adapter(tmp_path / "a"), peft_type=kind)
    refused(f"adapter_config.json: peft_type {kind}: only LoRA", Adapter.open, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": None}, "peft_type"),
        ({"r": "many"}, "adapter_config.json: r: "),
        ({"r": 0}, "adapter_config.json: r: "),
        ({"lora_alpha": [1]}, "adapter_config.json: lora_alpha: "),
        ({"rank_pattern": {"(": 3}}, r'"\(" in rank_pattern or alpha_pattern is no regular expression'),
        ({"rank_pattern": {"q_proj": 0}}, "ranks must be at least 1"),
        ({"r": 3}, r"has factors \[40, 4\] and \[4, .*says rank 3"),
        ({"use_dora": True}, r"has magnitudes \[\] for 40 rows, and adapter_config.json says use_dora=True"),
        ({"use_qalora": True}, "use_qalora: this variant of LoRA"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
    ],
)
def test_a_configuration_that_cannot_be_measured_names_its_field(changes, message, tmp_path):
    refused(message, Adapter.open, edit_config(save_adapter(tmp_path / "a"), **changes))


def test_damage_is_one_line_that_names_the_file(tmp_path):
    folder = save_adapter(tmp_path / "a")
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    whole, settings = weights.read_bytes(), config.read_text()
    for cut in (0, 5, 100, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        refused("a/adapter_model.safetensors: cannot be read", measure_updates, [folder])
    weights.write_bytes(whole)
    for text in ("", "{", "[]", '"x"', "nul"):
        config.write_text(text)
        refused(r"a/adapter_config.json: (cannot be read|holds no JSON object)", measure_updates, [folder])
    config.write_text(settings)
    for bad in (float("nan"), float("inf")):
        edit_tensors(folder, lambda tensors, bad=bad: next(iter(tensors.values())).view(-1)[:1].fill_(bad))
        refused("a/adapter_model.safetensors: base_model.*holds NaN", measure_updates, [folder])
        weights.write_bytes(whole)
    edit_tensors(folder, lambda tensors: tensors.pop(sorted(tensors)[0]))
    refused("has only one of the factors A and B", measure_updates, [folder])


def _numbers_or_a_line(folder) -> str:
    try:
        norms = measure_updates([folder]).table.query("metric == 'update_norm'")["value"]
    except UserError as error:
        return "refused" if "\n" not in str(error) and str(folder) in str(error) else f"badly refused: {error}"
    return "numbers" if norms.notna().all() else "NaN"


def test_any_flipped_byte_gives_numbers_or_one_line(tmp_path):
    folder = save_adapter(tmp_path / "a", target_modules=["q_proj"], layers_to_transform=[0])
    file = folder / "adapter_model.safetensors"
    whole = file.read_bytes()
    rng = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(8), *rng.sample(range(8, header), 30), *rng.sample(range(header, len(whole)), 20)]
    outcomes = set()
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        outcomes.add(_numbers_or_a_line(folder))
    assert outcomes == {"numbers", "refused"}


def test_pickles_are_never_read(tmp_path):
    folder = save_adapter(tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), folder / "adapter_model.bin")
    file.unlink()
    refused("adapter_model.safetensors is not in it; only safetensors are read", Adapter.open, folder)


def test_factors_with_more_dimensions_are_left_out(tmp_path):
    folder = save_adapter(tmp_path / "a")
    module = "base_model.model.model.layers.0.self_attn.q_proj"

    def widen(tensors):
        for side in "AB":
            name = f"{module}.lora_{side}.weight"
            tensors[name] = tensors[name][:, :, None, None].contiguous()

    adapter = Adapter.open(edit_tensors(folder, widen))
    assert "4-dimensional" in adapter.left_out["model.layers.0.self_attn.q_proj.lora_A.weight"]
    assert "model.layers.0.self_attn.q_proj" not in adapter.lora


def test_doras_magnitudes_must_fit(tmp_path):
    folder = save_adapter(tmp_path / "a", use_dora=True)

    def cut(tensors):
        name = next(name for name in tensors if "magnitude" in name)
        tensors[name] = tensors[name][:-1].clone()

    refused(r"has magnitudes \[39\] for 40 rows", Adapter.open, edit_tensors(folder, cut))


def test_a_folder_that_is_nothing_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused("empty: neither an adapter", measure_updates, [tmp_path / "empty"], base_folder(tmp_path / "base"))
    refused("gone: no such folder; give a local folder", is_adapter, tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    refused("file: no such folder", is_adapter, tmp_path / "file")


def test_a_hub_failure_is_one_line(monkeypatch):
    def offline(name, **options):
        raise OSError("offline\nand more")

    monkeypatch.setattr("limberlm.observe.model.weights.snapshot_download", offline)
    refused(r"owner/name: no such folder here, and not from the hub: offline$", is_adapter, "owner/name")


def test_shards_are_read_and_a_missing_one_is_named(tmp_path):
    folder = tmp_path / "base"
    tiny().save_pretrained(folder, max_shard_size="20KB")
    found = Checkpoint.open(folder)
    assert len({stored.file for stored in found.tensors.values()}) > 2
    for name, value in tiny().state_dict().items():
        if name in found.tensors:
            assert torch.equal(found.tensors[name].read(), value)
    shard = next(iter(found.tensors.values())).file
    shard.unlink()
    refused(f"{shard}: model.safetensors.index.json names this shard", Checkpoint.open, folder)
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    refused("has no weight_map", Checkpoint.open, folder)
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    refused("names this shard, and it is not there", Checkpoint.open, folder)


def test_quantised_weights_are_refused(tmp_path):
    folder = base_folder(tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tensors[name] = tensors[name].to(torch.uint8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused("is stored as U8; give weights that are not quantised", Checkpoint.open(folder).tensors[name].read)


def test_weights_are_found_without_their_models_prefix_and_heads_through_the_embedding(tmp_path):
    folder = base_folder(tmp_path / "base", "gpt2")
    tensors = load_file(folder / "model.safetensors")
    save_file({k.removeprefix("transformer."): v for k, v in tensors.items()}, folder / "model.safetensors")
    found = Checkpoint.open(folder)
    assert found.weight("transformer.h.0.attn.c_attn").shape == (40, 120)
    assert found.transposed("h.0.attn.c_attn")
    assert found.weight("lm_head").shape == (97, 40)
    assert found.weight("transformer.h.7.attn.c_attn") is None
    assert not found.transposed("lm_head")
