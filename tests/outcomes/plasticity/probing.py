"""A small probe of the tiny model, and ways to look at its rows."""

from __future__ import annotations

import json
from typing import Any

from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from limberlm.outcomes.plasticity import PlasticitySettings, plasticity_outcomes
from limberlm.stages import AdapterSettings

SETTINGS: dict[str, Any] = {"steps": 5, "every": 2, "batch_size": 8, "learning_rate": 1e-2, "items": 10}
Rows = list[dict[str, Any]]


def lora(**changes: Any) -> LoraConfig:
    return AdapterSettings(**{"r": 4, "lora_alpha": 8} | changes).lora()


def outcomes(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Rows:
    return plasticity_outcomes(model, tokenizer, lora(), PlasticitySettings(**SETTINGS | changes))


def named(rows: Rows, name: str, **labels: Any) -> Rows:
    """Rows of an outcome whose task, step or settings are these."""
    return [
        row
        for row in rows
        if row["outcome"] == name and all((row | said(row)).get(key) == value for key, value in labels.items())
    ]


def said(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads(row["settings"] or "{}")


def alike(one: Rows, other: Rows) -> bool:
    """To the bit, NaN being equal to NaN."""
    return json.dumps(one) == json.dumps(other)
