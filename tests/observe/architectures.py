"""Every decoder family that is tested, as a tiny random model, and the page that tells what is measured of each.

`python -m tests.observe.architectures > docs/reference/architectures.md` writes the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as PAIRS

from limberlm.errors import UserError
from limberlm.observe import Sites, locate
from limberlm.observe.forward.observation import observe
from limberlm.observe.model.head import Head, locate_head
from limberlm.observe.model.mlp import locate_mlp
from tests.observe.tiny import random_probe

VOCABULARY, WIDTH = 128, 32

# a config ignores the fields it does not know, so one set of sizes does for nearly all families
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # state spaces and linear attention
    "state_size": 4,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "mamba_d_ssm": 64,
    "mamba_n_groups": 1,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT: dict[str, Any] = {  # attention through a latent, as in DeepSeek
    "head_dim": None,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
SEEING: dict[str, Any] = {
    "hidden_size": 16,
    "embed_dim": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": WIDTH,
}
TURNING = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}

# by model_type: what differs from SIZES; None drops a field
MEASURED: dict[str, dict[str, Any]] = {
    # dense
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 5.0},
    "gemma3_text": {"final_logit_softcapping": 5.0},
    "gemma4_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 128, "num_kv_shared_layers": 0}
    | SLIDING,
    "mistral": {},
    "ministral": {},
    "ministral3": {},
    "phi": {},
    "phi3": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "opt": {"ffn_dim": 56, "word_embed_proj_dim": WIDTH},
    "bloom": {},
    "mpt": {},
    "falcon": {"head_dim": None, "ffn_hidden_size": 56},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "stablelm": {},
    "starcoder2": {},
    "smollm3": {},
    "granite": {"logits_scaling": 4.0},
    "granite_swa": {"logits_scaling": 4.0},
    "cohere": {},
    "cohere2": {},
    "nemotron": {},
    "persimmon": {},
    "helium": {},
    "glm": {},
    "glm4": {},
    "exaone4": {},
    "ernie4_5": {},
    "hunyuan_v1_dense": {},
    "hyperclovax": {"logits_scaling": 0.25},
    "minicpm3": LATENT,
    "youtu": LATENT,
    "seed_oss": {},
    "apertus": {},
    "arcee": {},
    "bitnet": {},
    "cwm": {},
    "diffllama": {},
    "doge": {},
    "jais2": {},
    "nanochat": {"final_logit_softcapping": 5.0},
    "vaultgemma": {"final_logit_softcapping": 5.0},
    "modernbert-decoder": {},
    "biogpt": {},
    "xglm": {"ffn_dim": 56},
    "ctrl": {"dff": 56},
    "moshi": {"ffn_dim": 112},
    "blenderbot": {"d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 56},
    "mbart": {"d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 56},
    "pegasus": {"d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 56},
    # mixtures of experts
    "mixtral": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "gpt_oss": {},
    "llama4_text": {"intermediate_size_mlp": 56},
    "granitemoe": {"logits_scaling": 4.0},
    "granitemoeshared": {"logits_scaling": 4.0},
    "olmoe": {},
    "flex_olmo": {},
    "phimoe": {},
    "jetmoe": {},
    "dbrx": {
        "d_model": WIDTH,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "aria_text": {},
    "ernie4_5_moe": {},
    "glm4_moe": {},
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT,
    "zaya": {"num_experts_per_tok": 1},
    "cohere2_moe": {},
    "hunyuan_v1_moe": {},
    "exaone_moe": {},
    "minimax": {},
    "minimax_m2": {},
    "mimo_v2_flash": {},
    "solar_open": {},
    "afmoe": {},
    "dots1": {"n_shared_experts": 1, "moe_layer_freq": 1},
    "longcat_flash": LATENT
    | {
        "head_dim": 8,
        "num_layers": 2,
        "num_hidden_layers": 4,
        "ffn_hidden_size": 56,
        "expert_ffn_size": 16,
        "zero_expert_num": 1,
        "moe_topk": 2,
    },
    "inkling_text": {},
    # state spaces, linear attention, and hybrids
    "mamba": {},
    "mamba2": {"num_heads": 8, "expand": 2, "n_groups": 1, "chunk_size": 4},
    "falcon_mamba": {},
    "falcon_h1": {"lm_head_multiplier": 0.5},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1], "mamba_chunk_size": 4},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]},
    "zamba2": {
        "num_hidden_layers": 4,
        "layer_types": ["mamba", "hybrid", "mamba", "hybrid"],
        "hybrid_layer_ids": [1, 3],
        "num_mem_blocks": 1,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_ngroups": 1,
        "attention_head_dim": 16,
    },
    "nemotron_h": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "ssm_state_size": 4,
        "chunk_size": 4,
        "moe_shared_expert_intermediate_size": 16,
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "logits_scaling": 4.0},
    "qwen3_next": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_5_moe_text": LINEAR,
    "olmo_hybrid": LINEAR,
    "kimi_linear": LATENT | LINEAR | {"linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2": {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": WIDTH, "logits_soft_cap": 5.0},
    "rwkv": {},
    "xlstm": {
        "head_dim": None,
        "num_heads": 4,
        "qk_dim_factor": 1.0,
        "chunk_size": 4,
        "chunkwise_kernel": "chunkwise--native_autograd",
        "sequence_kernel": "native_sequence__native",
        "step_kernel": "native",
    },
    # models that see as well: their text decoder
    "gemma3": {"vision_config": SEEING, "mm_tokens_per_image": 4, "image_token_index": 99},
    "llava": {
        "text_config": {"model_type": "llama"},
        "vision_config": SEEING | {"model_type": "clip_vision_model"},
        "image_token_index": 99,
    },
    "mistral3": {
        "text_config": {"model_type": "mistral"},
        "vision_config": SEEING | {"model_type": "pixtral"},
        "image_token_index": 99,
    },
    "llama4": {
        "text_config": {"intermediate_size_mlp": 56},
        "vision_config": SEEING | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
    },
    "qwen2_5_vl": {"text_config": TURNING, "vision_config": SEEING, "image_token_id": 99, "video_token_id": 98},
    "qwen3_vl": {"text_config": TURNING, "vision_config": SEEING, "image_token_id": 99, "video_token_id": 98},
    "qwen3_5": {"text_config": TURNING | LINEAR, "vision_config": SEEING},
}

REFUSED: dict[str, dict[str, Any]] = {
    "opt": {"do_layer_norm_before": False, "ffn_dim": 56, "word_embed_proj_dim": WIDTH},
    "openai-gpt": {},
    "xlnet": {"max_position_embeddings": None, "d_model": WIDTH, "n_head": 4, "n_layer": 2, "d_inner": 56},
    "xlm": {},
    "bert": {},
    "xlm-roberta-xl": {},
    "t5": {"d_kv": 8, "d_ff": 56},
    "bart": {"d_model": WIDTH, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 56},
    "cpmant": {},
    "deepseek_v4": LATENT,
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 128,
        "laurel_rank": 8,
        "activation_sparsity_pattern": [0.0, 0.0],
    }
    | SLIDING,
    "hrm_text": {},
}

# measured, because padding goes to the right; on the left these read it
LEFT_PADDING_IS_READ = {
    "blenderbot": "positions count the padding",
    "mbart": "positions count the padding",
    "pegasus": "positions count the padding",
    "recurrent_gemma": "its convolution has no mask",
    "rwkv": "it has no mask",
    "xlstm": "it has no mask",
}


def build(name: str, settings: dict[str, Any], *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny random model of a family, with norms and biases that are not trivial either."""
    fields = {**SIZES, **settings, **changes}
    if "vision_config" in settings:
        fields = {**settings, **changes, "text_config": SIZES | settings.get("text_config", {})}
    config = AutoConfig.for_model(name, **{field: value for field, value in fields.items() if value is not None})
    if name in PAIRS and name not in CAUSAL:
        maker: Any = AutoModelForSeq2SeqLM
    else:
        maker = AutoModelForImageTextToText if "vision_config" in settings else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = maker.from_config(config).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def inputs(ids: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """What the pass gives a model: positions count real tokens."""
    mask = torch.ones_like(ids) if mask is None else mask
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


IDS = torch.randint(3, 90, (2, 7), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Read:
    """A model that was read once on `IDS`: its states by site, its own hidden states and logits."""

    model: PreTrainedModel
    sites: Sites
    states: dict[str, Tensor]
    hidden: tuple[Tensor, ...]
    logits: Tensor


@cache
def read(name: str) -> Read:
    """The family's model, built and read once for all tests, which leave it as it is."""
    model = build(name, MEASURED[name])
    sites = locate(model)
    states = states_of(sites, **inputs(IDS))
    with torch.no_grad():
        mask = torch.ones_like(IDS)
        output = model(input_ids=IDS, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return Read(model, sites, states, output.hidden_states, output.logits)


def states_of(sites: Sites, **given: Tensor) -> dict[str, Tensor]:
    with sites.reading(sites.names()) as states, torch.no_grad():
        sites.forward(**given)
    assert list(states) == sites.names()
    return states


@cache
def refusal(name: str) -> str:
    """Why a family is not measured, in the words a user gets."""
    model = build(name, REFUSED[name])
    try:
        sites = locate(model)
        observe(model, sites, sites.names(), random_probe(2, 6, vocabulary=90))
    except UserError as problem:
        return str(problem)
    raise AssertionError(f"{name} is measured")


INTRO = """# Architectures

The blocks, the final norm, the head and the hidden units are found by rule, not from a table, so a family that is not
listed here may well be measured. Each row is a tiny random model of transformers 5 that the tests build, read and
compare with the model's own hidden states and logits; the page is made from the same code and cannot drift.

* **States** are what enters block 0 (`embed`), what leaves each block (`block.i`) and what leaves the final norm
  (`final_norm`). Where the model itself tells its hidden states, they are the same.
* **Logits** are rebuilt from the states at `final_norm`. Scale and softcap are found by comparison with the model's own
  logits, so a field that multiplies in one family and divides in another needs no rule. Sizes and numbers below are
  those of the tiny model.
* **Units** are the inputs of each block's last MLP layer. Where there are none, the metrics that need them are left out
  with the reason given.
* **Padding** goes to the right, where no decoder sees it. Padding on the left gives the same states unless the last
  column says otherwise.
* **Wrappers** are looked through: PEFT adapters on the weights, `torch.compile`, data parallel, gradient checkpointing,
  and models that accelerate spreads over devices or offloads.
"""


def page() -> str:
    """The reference page, as Markdown."""
    rows = [_row(name) for name in MEASURED]
    refused = [f"| {name} | {_cell(refusal(name))} |" for name in REFUSED]
    return "\n".join(
        [
            INTRO,
            f"## Measured: {len(MEASURED)} families\n",
            "| model type | class | blocks | final norm | logits | units | left padding |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "\n## Refused\n",
            "| model type | what is said |",
            "|---|---|",
            *refused,
            "\nAn `opt` model is refused only where its norms come after the sublayers (OPT-350m).\n",
        ]
    )


def _row(name: str) -> str:
    found = read(name)
    model, sites = found.model, found.sites
    paths = {module: path for path, module in model.named_modules()}
    norm = f"`{paths[sites.final_norm]}` ({type(sites.final_norm).__name__})"
    try:
        logits = _told(locate_head(model, sites), paths)
    except UserError as problem:
        logits = f"refused: {str(problem).partition(': ')[2]}"
    units = locate_mlp(sites)
    if isinstance(units, str):
        units = f"none: {re.sub(r' [(].*?[)]', '', units)}"
    else:
        units = ", ".join(dict.fromkeys(_inside(unit, sites) for unit in units))
    cells = [name, type(model).__name__, f"`{paths[sites.blocks]}`", norm, logits, units]
    return f"| {' | '.join(map(_cell, [*cells, LEFT_PADDING_IS_READ.get(name, 'same states')]))} |"


def _told(head: Head, paths: dict[nn.Module, str]) -> str:
    facts = [f"`{paths[head.unembedding]}`", "tied" if head.tied else "untied"]
    if head.scale != 1:
        facts.append(f"times {head.scale:.4g}")
    if head.softcap is not None:
        facts.append(f"softcap {head.softcap:g}")
    return ", ".join(facts)


def _inside(unit: nn.Module, sites: Sites) -> str:
    """The path of a layer inside its block."""
    path = next(path for path, module in sites.blocks.named_modules() if module is unit)
    return f"`{path.partition('.')[2]}`"


def _cell(text: str) -> str:
    return text.replace("|", "&#124;")


if __name__ == "__main__":
    print(page(), end="")
