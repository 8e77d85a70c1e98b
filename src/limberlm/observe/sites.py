"""Where states are read: finding a model's blocks and final norm, and hooking them for a forward pass."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, cast

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from limberlm.errors import UserError

EMBED, FINAL_NORM, BAND = "embed", "final_norm", "band"
BAND_LOW, BAND_HIGH, BAND_CENTRE = 0.50, 0.85, 0.675


@dataclass(frozen=True)
class Sites:
    """The parts of a decoder that are read: `embed` is what enters block 0, `block.i` what leaves block i.

    The backbone is the model without its head: running it never makes logits.
    """

    backbone: PreTrainedModel
    blocks: nn.ModuleList
    final_norm: nn.Module

    def names(self, layers: Sequence[int] | None = None) -> list[str]:
        """Site names in depth order: embed, final_norm and the blocks of `layers` (negative: from the end).

        Raises:
            UserError: a layer the model does not have.
        """
        total = len(self.blocks)
        chosen = range(total) if layers is None else layers
        for layer in chosen:
            if not -total <= layer < total:
                raise UserError(f"layers: {layer} does not exist; the model has blocks 0 to {total - 1}")
        return [EMBED, *(f"block.{i}" for i in sorted({layer % total for layer in chosen})), FINAL_NORM]

    def forward(self, **inputs: Tensor) -> None:
        """Run the backbone, without a cache, on the `inputs` its forward names (some take no position_ids)."""
        accepted = signature(self.backbone.forward).parameters
        self.backbone(**{name: value for name, value in inputs.items() if name in accepted}, use_cache=False)

    @contextmanager
    def reading(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """While open, each forward fills the yielded dict with the sites' states [batch, length, d]."""
        states: dict[str, Tensor] = {}
        handles = []
        try:
            for name in names:
                if name == EMBED:
                    handles.append(self.blocks[0].register_forward_pre_hook(_entering(states), with_kwargs=True))
                else:
                    part = self.final_norm if name == FINAL_NORM else self.blocks[int(name.removeprefix("block."))]
                    handles.append(part.register_forward_hook(_leaving(states, name)))
            yield states
        finally:
            for handle in handles:
                handle.remove()


def _entering(states: dict[str, Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[EMBED] = args[0] if args else kwargs["hidden_states"]

    return hook


def _leaving(states: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states[name] = output if isinstance(output, Tensor) else output[0]

    return hook


def depth_of(site: str, blocks: int) -> float:
    """Depth in [0, 1]: `embed` 0, `block.i` (i+1)/L, `final_norm` 1.

    >>> depth_of("embed", 4), depth_of("block.1", 4), depth_of("final_norm", 4)
    (0.0, 0.5, 1.0)
    """
    if site == EMBED:
        return 0.0
    return 1.0 if site == FINAL_NORM else (int(site.removeprefix("block.")) + 1) / blocks


def band_sites(blocks: int) -> list[str]:
    """Blocks of the depth band: 0.50 <= depth <= 0.85, else the one nearest 0.675 (our choice).

    >>> band_sites(6), band_sites(1)
    (['block.2', 'block.3', 'block.4'], ['block.0'])
    """
    depths = {f"block.{i}": (i + 1) / blocks for i in range(blocks)}
    inside = [name for name, depth in depths.items() if BAND_LOW <= depth <= BAND_HIGH]
    return inside or [min(depths, key=lambda name: abs(depths[name] - BAND_CENTRE))]


def locate(model: PreTrainedModel | PeftModel) -> Sites:
    """Find the backbone, its blocks and its final norm, without a table of architectures.

    The blocks are the one `ModuleList` as long as the config's `num_hidden_layers`, wherever it is nested; the
    final norm is the last norm registered beside it, preferably after it, that is not the embedding's.

    Raises:
        UserError: the model is not a decoder, or one of the parts is missing or not unique; names the part.
    """
    name = type(model).__name__
    if isinstance(model, PeftModel):
        if model.active_peft_config.is_prompt_learning:
            raise UserError(
                f"{name}: a {model.active_peft_config.peft_type} adapter changes the prompt, not the blocks"
            )
        base = model.get_base_model()
        name = type(base).__name__
    else:
        base = model
    if not isinstance(base, PreTrainedModel):
        raise UserError(f"{name}: not a transformers model; give a PreTrainedModel, a PeftModel or a path")
    if base.config.is_encoder_decoder:
        raise UserError(f"{name}: an encoder-decoder; only decoders have the sites embed, block.i and final_norm")
    backbone = cast(PreTrainedModel, base.base_model)
    layers = base.config.get_text_config().num_hidden_layers
    parent, blocks = _blocks(backbone, layers, name)
    return Sites(backbone, blocks, _final_norm(parent, blocks, name))


def _blocks(backbone: nn.Module, layers: int, name: str) -> tuple[nn.Module, nn.ModuleList]:
    found = {
        path: module
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    }
    # a list inside a block (experts, say) may happen to be as long as the list of blocks
    outer = [path for path in found if not any(path.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        listed = f" ({', '.join(outer)})" if outer else ""
        raise UserError(f"{name}: cannot locate the blocks: {len(outer)} lists of {layers} modules{listed}")
    return backbone.get_submodule(outer[0].rpartition(".")[0]), found[outer[0]]


def _final_norm(parent: nn.Module, blocks: nn.ModuleList, name: str) -> nn.Module:
    children = list(parent.named_children())
    start = next(i for i, (_, child) in enumerate(children) if child is blocks)
    # most models register it after the blocks, OPT before
    for part in (children[start + 1 :], children[:start]):
        norms = [child for attribute, child in part if _is_norm(attribute, child)]
        if norms:
            return norms[-1]
    where = type(parent).__name__
    raise UserError(f"{name}: cannot locate the final norm: there is no norm beside the blocks in {where}")


def _is_norm(attribute: str, module: nn.Module) -> bool:
    named = re.search(r"norm|(^|_)ln(_|$)", attribute) is not None or "norm" in type(module).__name__.lower()
    return named and "embed" not in attribute
