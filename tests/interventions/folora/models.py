"""Tiny random models, and second moments the obvious way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

WORDS = 50
Q, OUT, GATE, DOWN = (
    f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
)


def llama(dtype: torch.dtype = torch.float64, seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """Width 16, inner width 24, 2 blocks, dropout that training would use."""
    settings = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=WORDS,
        max_position_embeddings=64,
        attention_dropout=0.5,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**settings | changes)).to(dtype)


def gpt2(dtype: torch.dtype = torch.float64) -> GPT2LMHeadModel:
    """Conv1D projections, width 16, 2 blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=WORDS, n_positions=64)).to(dtype)


def texts(count: int = 12, seed: int = 0) -> list[list[int]]:
    """Token ids of 3 to 20 tokens, without the padding token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 21, (count,), generator=generator).tolist()
    return [torch.randint(2, WORDS, (n,), generator=generator).tolist() for n in lengths]


def rows(count: int = 12, seed: int = 0) -> list[dict[str, list[int]]]:
    """The same as rows."""
    return [{"input_ids": ids} for ids in texts(count, seed)]


def inputs_of(model: PreTrainedModel, names: Sequence[str], ids: Sequence[int]) -> dict[str, Tensor]:
    """What modules read [n, d] of one text, alone and unpadded."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[name] = args[0].detach()[0]

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in names]
    was = model.training
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    model.train(was)
    for handle in handles:
        handle.remove()
    return seen


def brute(
    model: PreTrainedModel, names: Sequence[str], given: Sequence[Sequence[int]], skip: Sequence[int] = ()
) -> dict[str, Tensor]:
    """X' X / n of all tokens of the texts but those at the skipped positions, in float64."""
    read = [inputs_of(model, names, ids) for ids in given]
    stacked = {
        name: torch.cat([x[name][[i for i in range(len(x[name])) if i not in skip]] for x in read]).double()
        for name in names
    }
    return {name: X.T @ X / len(X) for name, X in stacked.items()}
