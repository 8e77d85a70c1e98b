"""The bundled base is a model folder that loads, small enough to ship, and what `limber pretrain` makes by default."""

from __future__ import annotations

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from limberlm.testbed import BUNDLED_BASE
from limberlm.testbed.pretrain import MODEL_FILES, PretrainSettings, folder_digests


def test_the_bundled_base_loads_and_is_small() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(BUNDLED_BASE), AutoTokenizer.from_pretrained(BUNDLED_BASE)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.chat_template
    assert (BUNDLED_BASE / "model.safetensors").stat().st_size < 12e6


def test_its_files_are_the_ones_it_names() -> None:
    digests = json.loads((BUNDLED_BASE / "digests.json").read_text())
    assert digests == folder_digests(BUNDLED_BASE)
    assert sorted(digests) == sorted(MODEL_FILES)


def test_the_default_settings_are_those_that_made_it() -> None:
    assert PretrainSettings.model_validate_json((BUNDLED_BASE / "settings.json").read_text()) == PretrainSettings()
