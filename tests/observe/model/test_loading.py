from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from limberlm.errors import UserError
from limberlm.observe import load_model, load_tokenizer, measure
from tests.observe.tiny import assert_same_bits, random_probe, tiny, word_tokenizer


@pytest.fixture
def folder(tmp_path):
    tiny().save_pretrained(tmp_path / "base")
    word_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def _refused(message, function, *arguments, **options):
    with pytest.raises(UserError, match=message) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_a_saved_model_comes_back(folder):
    model, original = load_model(folder), tiny()
    assert not any(module.training for module in model.modules())
    loaded = model.state_dict()
    assert all(torch.equal(value, loaded[name].cpu()) for name, value in original.state_dict().items())
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype=torch.float64, device="cpu").dtype == torch.float64
    assert len(load_tokenizer(folder)) == len(word_tokenizer())


def test_an_adapter_is_put_on(folder, adapter):
    model = load_model(folder, adapter=adapter, device="cpu")
    assert isinstance(model, PeftModel)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = torch.tensor([[5, 6, 7]])
    assert not torch.allclose(model(ids).logits, tiny()(ids).logits)


def test_a_model_in_memory_is_returned_as_it_is(adapter):
    model = tiny()
    assert load_model(model) is model
    assert load_model(model, dtype="float32", device="cpu") is model
    _refused("adapter: the model is in memory", load_model, model, adapter=adapter)
    _refused("dtype=bfloat16: the model in memory is torch.float32", load_model, model, dtype="bfloat16")
    _refused("device=meta: the model in memory is on cpu", load_model, model, device="meta")


def test_what_is_not_there_is_named(folder, tmp_path):
    file = tmp_path / "model.bin"
    file.write_text("x")
    for path in (tmp_path / "nothing", "./nothing", "nothing", file):
        for function in (load_model, load_tokenizer):
            _refused(f"{path}: no such folder; give a local folder", function, path)
    empty = tmp_path / "empty"
    empty.mkdir()
    _refused("empty: a model cannot be loaded from it", load_model, empty)
    _refused("empty: a tokenizer cannot be loaded from it", load_tokenizer, empty)
    _refused("nothing: no such folder", load_model, folder, adapter=tmp_path / "nothing")
    _refused("empty: not an adapter", load_model, folder, adapter=empty)
    _refused('dtype: "int8" is not a floating-point type', load_model, folder, dtype="int8")
    _refused('dtype: "nonsense" is not', load_model, folder, dtype="nonsense")
    _refused("device=nonsense: ", load_model, folder, device="nonsense")
    _refused("Linear: not a transformers model", measure, torch.nn.Linear(2, 2), random_probe(20))


def test_a_hub_id_is_looked_up_and_its_failure_is_one_line(monkeypatch):
    seen = {}

    def hub(name, **options):
        seen[name] = options["local_files_only"]
        raise OSError("offline\nmany more lines")

    monkeypatch.setattr("limberlm.observe.model.loading.AutoTokenizer.from_pretrained", hub)
    _refused(r"owner/name: a tokenizer.*no such folder here.*offline\)$", load_tokenizer, "owner/name")
    assert seen == {"owner/name": False}


def test_damaged_checkpoints_are_refused(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:500])
    _refused("base: a model cannot be loaded", load_model, folder)
    weights.write_bytes(whole)
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    _refused(r"1 weights are missing \(model.layers.1.mlp.up_proj.weight", load_model, folder)
    (folder / "config.json").write_text("{")
    _refused("base: a model cannot be loaded", load_model, folder)


def test_pickles_and_code_of_a_checkpoint_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    _refused("base: a model cannot be loaded", load_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {k: "evil.Model" for k in ("AutoConfig", "AutoModelForCausalLM")}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    _refused("base: a model cannot be loaded", load_model, folder)


def test_measuring_a_path_equals_measuring_the_loaded_model(folder, adapter):
    probe = random_probe(24, vocabulary=90)
    from_path, in_memory = measure(folder, probe, device="cpu"), measure(tiny(), probe)
    assert_same_bits(from_path.table, in_memory.table)
    assert from_path.manifest["checkpoint"] == {"model": str(folder), "adapter": None}
    adapted = measure(folder, probe, adapter=adapter, device="cpu")
    assert adapted.manifest["checkpoint"]["adapter"] == str(adapter)
    assert adapted.value("effective_rank") != from_path.value("effective_rank")
