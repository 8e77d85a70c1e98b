"""What merging an adapter costs: the function and the weights after it, against the adapter left unmerged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from limberlm.observe.model.state import untouched

ADAPTER = "default"
"""PEFT's and TRL's name of the adapter that is trained."""
ROWS, LENGTH = 2, 32


@dataclass(frozen=True)
class MergeRounding:
    """How much of an adapter's effect is lost to rounding when it is added into the weights.

    Each value is relative to what the adapter does, and so 0 is nothing and 1 all of it; None where it does nothing.
    With W the adapted weights and f the logits on `fixed_tokens`, both in float32 arithmetic:

        weights = ||merged - (W + s B A)|| / ||s B A||        (Frobenius, float64, over all adapted weights)
        logits  = ||f(merged) - f(W, adapter on)|| / ||f(W, adapter on) - f(W, adapter off)||

    Attributes:
        logits: of merging in float32, which is how limberlm merges.
        weights: of merging in float32.
        logits_bfloat16: the same had W been kept in bfloat16, and the merged weights with it.
        weights_bfloat16: likewise.

    """

    logits: float | None
    weights: float | None
    logits_bfloat16: float | None
    weights_bfloat16: float | None


def relative_rms(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||, in float64.

    >>> relative_rms(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
    0.1
    """
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def fixed_tokens(model: Any) -> Tensor:
    """Two rows of up to 32 random tokens [rows, length], the same for every model with this vocabulary. Our choice."""
    config = model.config.get_text_config()
    length = min(LENGTH, getattr(config, "max_position_embeddings", LENGTH))
    return torch.randint(config.vocab_size, (ROWS, length), generator=torch.Generator().manual_seed(0))


def fixed_logits(model: Any) -> Tensor:
    """The logits [rows, length, vocabulary] on `fixed_tokens`, in evaluation mode; the model stays as it is.

    A trainer replaces the forward of the model it is given (a fused head, autocast); the class's own is called, so
    that values before, in and after a training can be compared.
    """
    plain: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    tokens = fixed_tokens(plain).to(plain.device)
    with untouched(model):
        logits: Tensor = type(plain).forward(plain, input_ids=tokens, use_cache=False).logits
    return logits.float().cpu()


def merge_rounding(model: PeftModel) -> MergeRounding:
    """What merging the model's adapter costs in float32, and what it would cost in bfloat16; the model stays as it is.

    Args:
        model: a float32 model with one LoRA adapter named `default`, not merged.

    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    kept = [_weight(layer).clone() for layer in layers]
    try:
        found = [_lost(model, layers, kept, dtype) for dtype in (torch.float32, torch.bfloat16)]
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            _weight(layer).copy_(weight)
    return MergeRounding(*found[0], *found[1])


def _lost(
    model: PeftModel, layers: list[Any], kept: list[Tensor], dtype: torch.dtype
) -> tuple[float | None, float | None]:
    """The share of the logits' change and of the weights' change that is rounding if the weights are in `dtype`."""
    for layer, weight in zip(layers, kept, strict=True):
        _weight(layer).copy_(weight.to(dtype))
    on = fixed_logits(model)
    with model.disable_adapter():
        off = fixed_logits(model)
        error, size = 0.0, 0.0
        for layer in layers:
            exact, merged = _change(layer), _weight(layer).to(dtype)
            before = merged.double()
            merged += layer.get_delta_weight(ADAPTER)  # as PEFT merges
            error += float((merged.double() - before - exact).square().sum())
            size += float(exact.square().sum())
            _weight(layer).copy_(merged)
        merged_logits = fixed_logits(model)
    return _ratio((merged_logits - on).norm(), (on - off).norm()), _ratio(math.sqrt(error), math.sqrt(size))


@torch.no_grad()
def _change(layer: Any) -> Tensor:
    """S B A of a layer in float64, laid out as its weight is."""
    layer.double()
    try:
        change: Tensor = layer.get_delta_weight(ADAPTER)
    finally:
        layer.float()  # back to the same bits
    return change


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.get_base_layer().weight.data
    return weight


def _ratio(part: float | Tensor, whole: float | Tensor) -> float | None:
    return float(part) / float(whole) if float(whole) else None
