"""Where a block's hidden units are: the layer that takes them back to the width of the residual stream."""

from __future__ import annotations

import re

from torch import nn
from transformers.pytorch_utils import Conv1D

from limberlm.observe.model.sites import Sites

_EXPERTS = re.compile(r"expert|router|moe", re.IGNORECASE)
_EXPERT_CLASSES = re.compile(r"Expert|Router|SparseMo")
# what mixes tokens instead of working on each alone, and norms that hold a small network (A.X K2)
_NOT_MLP = re.compile(r"attn|attention|mamba|mixer|ssm|recurrent|temporal|lstm|conv|norm", re.IGNORECASE)


def locate_mlp(sites: Sites) -> list[nn.Module] | str:
    """Per block, the last layer of its MLP, whose input [.., m] are the hidden units; or the reason there is none.

    It is the linear layer to d units with the widest input, the last of equals, outside everything that mixes
    tokens (attention, a state space, a convolution). A mixture of experts is refused: its units see only the tokens
    sent to them, so they cannot be told dead or alike over a probe.

    >>> from limberlm.observe.model.sites import locate
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=2, n_head=1, bos_token_id=0, eos_token_id=0))
    >>> [layer.nx for layer in locate_mlp(locate(model))]
    [16, 16]
    """
    width = sites.backbone.config.get_text_config().hidden_size
    found: list[nn.Module] = []
    for number, block in enumerate(sites.blocks):
        named = {path: module for path, module in block.named_modules() if path}
        if any(_of_experts(path, module) for path, module in named.items()):
            return f"block.{number} ({_kind(block)}) is a mixture of experts"
        layers = _to_width(named, width)
        if not layers:
            return f"block.{number} ({_kind(block)}) has no MLP: all of it mixes tokens"
        found.append(max(reversed(layers), key=lambda layer: _sizes(layer)[0]))
    return found


def _of_experts(path: str, module: nn.Module) -> bool:
    attribute = path.rpartition(".")[2]
    return bool(_EXPERTS.search(attribute) or _EXPERT_CLASSES.search(type(module).__name__))


def _to_width(named: dict[str, nn.Module], width: int) -> list[nn.Module]:
    """The linear layers with `width` outputs outside what is no MLP, in order, without those inside them (LoRA)."""
    layers: list[nn.Module] = []
    closed: list[str] = []
    for path, module in named.items():
        if any(path.startswith(f"{other}.") for other in closed):
            continue
        if _NOT_MLP.search(path.rpartition(".")[2]):
            closed.append(path)
        elif _sizes(module)[1] == width:
            closed.append(path)
            layers.append(module)
    return layers


def _sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer, (0, 0) for anything else."""
    if isinstance(layer, Conv1D):
        return layer.nx, layer.nf
    sizes = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
    return (sizes[0], sizes[1]) if isinstance(sizes[0], int) and isinstance(sizes[1], int) else (0, 0)


def _kind(block: nn.Module) -> str:
    return type(getattr(block, "_orig_mod", block)).__name__
