"""Tiny random decoders of several architectures, and random probes for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pandas.testing import assert_frame_equal
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from limberlm.observe import ProbeSequence, ProbeSet

VOCABULARY, WIDTH, LAYERS = 97, 40, 3

_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    **_IDS,
}
_GATED = {**_COMMON, "intermediate_size": 56, "max_position_embeddings": 64, "num_key_value_heads": 2}
_GPT2 = {
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": 4,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    **_IDS,
}

ARCHITECTURES: dict[str, tuple] = {
    "llama": (LlamaForCausalLM, LlamaConfig, _GATED),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, _GATED),
    "mistral": (MistralForCausalLM, MistralConfig, _GATED),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {**_GATED, "head_dim": 10}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {**_GPT2, "n_positions": 64}),
    "opt": (OPTForCausalLM, OPTConfig, {**_COMMON, "ffn_dim": 56, "max_position_embeddings": 64}),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, {**_COMMON, "intermediate_size": 56}),
    "bloom": (BloomForCausalLM, BloomConfig, {**_COMMON, "n_layer": LAYERS, "n_head": 4}),
    "mamba": (MambaForCausalLM, MambaConfig, {**_COMMON, "state_size": 4}),
}


def tiny(name: str = "llama", *, seed: int = 0, **changes: object) -> PreTrainedModel:
    model_class, config_class, settings = ARCHITECTURES[name]
    torch.manual_seed(seed)
    return model_class(config_class(**{**settings, **changes})).eval()


def random_probe(
    sequences: int = 48,
    longest: int = 12,
    *,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    domains: tuple[str, ...] = ("text",),
) -> ProbeSet:
    """Sequences of 2 to `longest` tokens; token 0 plays the special token and is dropped, like the first position."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(sequences):
        ids = rng.integers(3, vocabulary, size=rng.integers(3, longest + 1))
        ids[rng.random(ids.size) < 0.1] = 0
        ids[1] = 5
        keep = tuple(bool(i > 0 and token != 0) for i, token in enumerate(ids))
        made.append(ProbeSequence(tuple(ids.tolist()), domains[number % len(domains)], keep, f"row {number}"))
    return ProbeSet(tuple(made), "random", longest)


def mixed_probe(sequences: int = 48, *, seed: int = 0, long: int = 16, longest: int = 76) -> ProbeSet:
    """Sequences of three domains that share part of their words, `long` of them with more than 64 kept tokens."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(sequences):
        domain = number % 3
        length = rng.integers(longest - 3, longest + 1) if number < long else rng.integers(4, 24)
        ids = rng.integers(3 + 20 * domain, 53 + 20 * domain, size=length)
        ids[rng.random(length) < 0.05] = 0
        keep = tuple(bool(i > 0 and token != 0) for i, token in enumerate(ids))
        ids[-1] = max(ids[-1], 3)  # the last token is kept
        keep = (*keep[:-1], True)
        name = ("code", "math", "prose")[domain]
        made.append(ProbeSequence(tuple(ids.tolist()), name, keep, f"row {number}"))
    return ProbeSet(tuple(made), "mixed", longest)


def shared(*parts: str) -> Path | None:
    """A file of the data folder that may lie beside a checkout, or None where there is none."""
    beside = Path(__file__).resolve().parents[2].parent / "shared"
    path = Path(os.environ.get("LIMBER_SHARED", beside)).joinpath(*parts)
    return path if path.exists() else None


def word_tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    """One token per lower-case letter or digit, `<s>` in front; what it does not know is `<unk>`."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 \n.:"
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {c: i for i, c in enumerate(letters, start=4)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        tokenizer.chat_template = "<s>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    return tokenizer


def assert_same_bits(left: pd.DataFrame, right: pd.DataFrame, last_place: int = 0) -> None:
    """Equal tables, NaN where NaN: to the last bit, or but for so many units in the last place."""
    numbers = [np.array(table["replicates"].tolist()) for table in (left, right)]
    rtol = last_place * 2.0**-52
    np.testing.assert_allclose(*numbers, rtol=rtol, atol=0)
    rest = [table.drop(columns="replicates") for table in (left, right)]
    assert_frame_equal(*rest, check_exact=not last_place, rtol=10 * rtol, atol=0)
