"""Adapter settings are PEFT's, with the defaults reported for the collapse suite."""

from __future__ import annotations

import pytest
from peft import TaskType, get_peft_model
from pydantic import ValidationError

from limberlm.stages import AdapterSettings


def test_the_defaults_are_those_of_the_collapse_suite() -> None:
    lora = AdapterSettings().lora()
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (16, 32, 0.05, "all-linear")
    assert lora.task_type == TaskType.CAUSAL_LM


def test_the_default_adapter_sits_on_attention_and_mlp_of_every_block_and_not_on_the_head(tiny_model) -> None:
    student = get_peft_model(tiny_model, AdapterSettings().lora())
    names = {name.split(".lora_A")[0].split("layers.")[1] for name, _ in student.named_parameters() if "lora_A" in name}
    parts = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    assert names == {f"{block}.{part}" for block in range(2) for part in parts}


def test_named_modules_reach_peft_as_they_are() -> None:
    lora = AdapterSettings(r=2, target_modules=("q_proj", "v_proj")).lora()
    assert sorted(lora.target_modules) == ["q_proj", "v_proj"]
    assert AdapterSettings(target_modules="o_proj").lora().target_modules == "o_proj"


@pytest.mark.parametrize("wrong", [{"r": 0}, {"lora_alpha": 0}, {"lora_dropout": 1.0}, {"rank": 4}])
def test_settings_out_of_range_or_unknown_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        AdapterSettings(**wrong)
