"""Merging adds exactly s B A to every weight, in float32, and changes no logit beyond its rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from limberlm.stages import merge_adapters
from tests.stages.conftest import Trained
from tests.stages.runs import load, logits, lora, relative_rms, update


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}])
def test_merging_two_adapters_adds_both_s_b_a(tiny_model_folder: Path, tmp_path: Path, settings: dict) -> None:
    folders = [lora(tiny_model_folder, tmp_path / str(seed), seed, **settings).folder for seed in (1, 2)]
    before = {k: v.double() for k, v in load(tiny_model_folder).state_dict().items()}
    after = load(tiny_model_folder, folders).state_dict()
    assert after.keys() == before.keys()
    updates = [update(folder) for folder in folders]
    assert updates[0].keys() < before.keys()
    for name, weight in after.items():
        wanted = before[name] + sum(u.get(name, torch.zeros(())) for u in updates)
        assert (weight.double() - wanted).abs().max() < 1e-6
        assert (name in updates[0]) == (not torch.equal(weight.double(), before[name]))


def test_a_trained_adapter_merges_to_the_same_function(tiny_model_folder: Path, sft: Trained) -> None:
    unmerged = PeftModel.from_pretrained(load(tiny_model_folder), sft.adapter)
    merged = load(tiny_model_folder, [sft.adapter])
    wanted = logits(unmerged)
    assert relative_rms(logits(merged), wanted) < 1e-4
    assert relative_rms(logits(load(tiny_model_folder)), wanted) > 0.05  # the adapter matters


def test_the_next_stage_starts_where_the_last_one_ended(tiny_model_folder: Path, sft: Trained) -> None:
    start = load(tiny_model_folder, [sft.adapter])
    fresh = get_peft_model(start, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert relative_rms(logits(fresh), logits(sft.model)) < 1e-4


def test_the_merged_model_has_no_trace_of_peft(tiny_model_folder: Path, sft: Trained) -> None:
    merged = load(tiny_model_folder, [sft.adapter])
    assert type(merged) is LlamaForCausalLM
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


def test_no_adapters_leave_the_base_as_it_is(tiny_model: LlamaForCausalLM) -> None:
    before = {k: v.clone() for k, v in tiny_model.state_dict().items()}
    assert merge_adapters(tiny_model, []) is tiny_model
    assert all(torch.equal(v, before[k]) for k, v in tiny_model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_precision_is_refused(tiny_model: LlamaForCausalLM, sft: Trained, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"merged in float32 only, and the base is in {dtype}"):
        merge_adapters(tiny_model.to(dtype), [sft.adapter])


def test_a_16_bit_merge_would_lose_a_small_adapters_effect(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = lora(tiny_model_folder, tmp_path / "a", 1, lora_alpha=0.02).folder
    base, wanted = load(tiny_model_folder), update(folder)
    name = "model.layers.0.mlp.down_proj.weight"
    weight = base.state_dict()[name]
    in_bf16 = (weight.bfloat16() + wanted[name].bfloat16()).double() - weight.bfloat16().double()
    in_fp32 = load(tiny_model_folder, [folder]).state_dict()[name].double() - weight.double()
    assert relative_rms(in_fp32, wanted[name]) < 1e-3
    assert relative_rms(in_bf16, wanted[name]) > 0.3
