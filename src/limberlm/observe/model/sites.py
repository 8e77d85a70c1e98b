"""Where states are read: finding a model's blocks and final norm, and hooking them for a forward pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from numbers import Integral
from typing import Any, cast

import torch
from accelerate.utils import is_compiled_module
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from limberlm.errors import UserError
from limberlm.observe.names import EMBED, FINAL_NORM

# num_hidden_layers counts LongCat's double blocks twice, and the encoder's of a decoder cut from a pair
DEPTH_FIELDS = ("num_hidden_layers", "num_layers", "decoder_layers")


@dataclass(frozen=True)
class Sites:
    """The parts of a decoder that are read: `embed` is what enters block 0, `block.i` what leaves block i.

    The backbone is the model without its head: running it never makes logits.
    """

    backbone: PreTrainedModel
    blocks: nn.ModuleList
    final_norm: nn.Module

    @property
    def device(self) -> torch.device:
        """Where inputs go. Weights that accelerate keeps elsewhere are "meta" until their module runs."""
        for module in self.backbone.modules():
            placed = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if placed is not None:
                return torch.device(placed)
        return next(self.backbone.parameters()).device

    @property
    def width(self) -> int:
        """Coordinates of a state."""
        width: int = self.backbone.config.get_text_config().hidden_size
        return width

    def names(self, layers: Sequence[int] | None = None) -> list[str]:
        """Site names in depth order: embed, final_norm and the blocks of `layers` (negative: from the end).

        Raises:
            UserError: a layer the model does not have.
        """
        total = len(self.blocks)
        chosen = range(total) if layers is None else layers
        for layer in chosen:
            if not isinstance(layer, Integral) or not -total <= layer < total:
                raise UserError(f"layers: {layer!r} does not exist; the model has blocks 0 to {total - 1}")
        return [EMBED, *(f"block.{i}" for i in sorted({layer % total for layer in chosen})), FINAL_NORM]

    def forward(self, **inputs: Tensor) -> None:
        """Run the backbone, without a cache, on the `inputs` its forward names (some take no position_ids)."""
        accepted = signature(self.backbone.forward).parameters
        # a compiled block would compile anew for the hooks and for each shape, and round otherwise
        with torch.compiler.set_stance("force_eager"):
            self.backbone(**{name: value for name, value in inputs.items() if name in accepted}, use_cache=False)

    @contextmanager
    def reading(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """While open, each forward fills the yielded dict with the sites' states [batch, length, d].

        Raises:
            UserError: inside a forward, when a part gives something other than one state per token, or a block
                runs more than once; names the model and the site.
        """
        reader = _Reader(type(self.backbone).__name__)
        handles = [self.backbone.register_forward_pre_hook(reader.start, with_kwargs=True)]
        try:
            for name in names:
                if name == EMBED:
                    handles.append(self.blocks[0].register_forward_pre_hook(reader.entering, with_kwargs=True))
                else:
                    part = self.final_norm if name == FINAL_NORM else self.blocks[int(name.removeprefix("block."))]
                    handles.append(part.register_forward_hook(partial(reader.leaving, name)))
            yield reader.states
        finally:
            for handle in handles:
                handle.remove()


class _Reader:
    """The states of the forward that is running, by site, in the order the parts ran."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.states: dict[str, Tensor] = {}
        self.ran: set[str] = set()
        self.tokens: tuple[int, ...] | None = None

    def start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
        self.tokens = None if given is None else tuple(given.shape[:2])
        self.ran.clear()

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(EMBED, args[0] if args else kwargs.get("hidden_states"))

    def leaving(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        # a norm may also be the embedding's: the last call is the final one
        if name in self.ran and name != FINAL_NORM:
            raise UserError(f"{self.model}: cannot be read: {name} runs more than once in a forward")
        self._keep(name, output[0] if isinstance(output, tuple) else output)

    def _keep(self, name: str, state: Any) -> None:
        if not isinstance(state, Tensor):
            raise UserError(f"{self.model}: cannot be read: {name} is {type(state).__name__}, not a tensor")
        if state.ndim != 3 or (self.tokens is not None and tuple(state.shape[:2]) != self.tokens):
            sizes = f"{list(state.shape)} for {list(self.tokens or ())} tokens"
            raise UserError(f"{self.model}: cannot be read: {name} is not one state per token ({sizes})")
        self.ran.add(name)
        self.states.pop(name, None)  # put back at the end: the order tells what ran last
        self.states[name] = state


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside torch.compile, a parallel wrapper and PEFT, in any order.

    It shares the adapter's layers, so it computes what the wrapper does.

    Raises:
        UserError: there is none, or the adapter changes the prompt instead of the blocks.
    """
    inner = model
    while True:
        if isinstance(inner, PeftModel):
            kind = inner.active_peft_config
            if kind.is_prompt_learning:
                raise UserError(
                    f"{type(inner).__name__}: a {kind.peft_type} adapter changes the prompt, not the blocks"
                )
            inner = inner.get_base_model()
        elif is_compiled_module(inner):
            inner = cast(nn.Module, inner._orig_mod)
        elif isinstance(inner, DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        else:
            break
    if not isinstance(inner, PreTrainedModel):
        raise UserError(
            f"{type(inner).__name__}: not a transformers model; give a PreTrainedModel, a PeftModel or a path"
        )
    return inner


def locate(model: nn.Module) -> Sites:
    """Find the backbone, its blocks and its final norm, without a table of architectures.

    The blocks are the one outermost `ModuleList` as long as the config says there are layers, wherever it is
    nested; the final norm is the first norm registered after it, else the last before it. Wrappers (PEFT,
    torch.compile, data parallel) are looked through; of a model that also sees or hears, only the text decoder
    is read.

    Raises:
        UserError: the model is not a decoder, or one of the parts is missing or not unique; names the part.
    """
    base = unwrapped(model)
    name = type(base).__name__
    if base.config.is_encoder_decoder:
        raise UserError(f"{name}: an encoder-decoder; only decoders have the sites embed, block.i and final_norm")
    backbone = _backbone(base)
    config = base.config.get_text_config()
    depths = {getattr(config, field, None) for field in DEPTH_FIELDS} - {None}
    parent, blocks = _blocks(backbone, depths, name)
    for path, module in blocks.named_modules():  # attention to an encoder's states is not causal, and need not be
        if getattr(module, "is_causal", None) is False and not re.search("encoder|cross", path):
            raise UserError(f"{name}: its tokens see what comes after them ({path}); only decoders are measured")
    return Sites(backbone, blocks, _final_norm(parent, blocks, name))


def _backbone(base: PreTrainedModel) -> PreTrainedModel:
    """The model without its head, and without the parts that see or hear."""
    own = base.config.get_text_config() is base.config
    backbone = unwrapped(base.base_model if own else unwrapped(base.get_decoder()).base_model)
    if "input_ids" in signature(backbone.forward).parameters:
        return backbone
    return unwrapped(backbone.get_decoder())  # BART's decoder sits in a wrapper


def _blocks(backbone: nn.Module, depths: set[Any], name: str) -> tuple[nn.Module, nn.ModuleList]:
    lists = {path: module for path, module in backbone.named_modules() if isinstance(module, nn.ModuleList)}
    # a list inside a block (experts, say) may happen to be as long as the list of blocks
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    found = [path for path in outer if len(lists[path]) in depths - {0}]
    if len(found) != 1:
        listed = f" ({', '.join(found)})" if found else ""
        sizes = " or ".join(map(str, sorted(depths)))
        raise UserError(f"{name}: cannot locate the blocks: {len(found)} lists of {sizes} modules{listed}")
    return backbone.get_submodule(found[0].rpartition(".")[0]), lists[found[0]]


def _final_norm(parent: nn.Module, blocks: nn.ModuleList, name: str) -> nn.Module:
    children = list(parent.named_children())
    start = next(i for i, (_, child) in enumerate(children) if child is blocks)
    # OPT registers its final norm before the blocks, Gemma 4 another one behind it; LFM2 calls its embedding_norm
    after = [(attribute, child) for attribute, child in children[start + 1 :] if _is_norm(attribute, child)]
    plain = [child for attribute, child in after if "embed" not in attribute]
    before = [c for attribute, c in children[:start] if _is_norm(attribute, c) and "embed" not in attribute]
    for norm in (*plain, *(child for _, child in after), *reversed(before)):
        return norm
    where = type(parent).__name__
    raise UserError(f"{name}: cannot locate the final norm: there is no norm beside the blocks in {where}")


def _is_norm(attribute: str, module: nn.Module) -> bool:
    return re.search(r"norm|(^|_)ln(_|$)", attribute) is not None or "norm" in type(module).__name__.lower()
