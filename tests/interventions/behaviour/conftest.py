"""The models that the shared suite trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def gpt2_folder(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 of width 32 with 2 blocks and its dropout, with the tokenizer of the tiny Llama."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    config = GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=256,
        vocab_size=len(tiny_tokenizer),
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bases(tiny_model_folder: Path, gpt2_folder: Path) -> dict[str, Path]:
    return {"llama": tiny_model_folder, "gpt2": gpt2_folder}
