"""What was trained ends as plain LoRA: PEFT loads and merges it, and it measures as it did before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import limberlm
from limberlm.interventions.folora.start import save_folora_pretrained
from tests.interventions.behaviour.runs import Setup, train
from tests.interventions.folora.runs import prepared, trainer
from tests.observe.tiny import mixed_probe

PROBE = mixed_probe(24)


def measured(model: Any, base: Path) -> pd.Series:
    """Every value, beside the base, by what it is of."""
    table = limberlm.measure(model, PROBE, reference=base, dtype=torch.float32).table
    return table.set_index(["site", "metric", "convention"])["value"]


@pytest.mark.parametrize("init", ["null_zero", "null_residual"])
def test_a_merged_adapter_measures_as_the_model_that_was_trained(tiny_model_folder, tmp_path, init):
    stats = prepared(tiny_model_folder, tmp_path, init)
    made = trainer(tiny_model_folder, tmp_path / "run", stats, Setup(dropout=0.0, window=1, steps=4))
    train(made)
    if init == "null_zero":
        made.save_model(str(tmp_path / "adapter"))
    else:  # its base was split, and the trainer's own checkpoint stands on that
        save_folora_pretrained(made.model, stats, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "merged")
    whole, again = (measured(model, tiny_model_folder) for model in (made.model, tmp_path / "merged"))
    assert whole["logits", "kl_to_base", "raw"] > 5e-4
    pd.testing.assert_series_equal(again, whole, rtol=1e-4, atol=1e-5)
