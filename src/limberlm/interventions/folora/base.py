"""What tells one base from another, however it is wrapped."""

from __future__ import annotations

import re
from hashlib import blake2b

import torch
from torch import Tensor, nn

from limberlm.observe.model.sites import unwrapped

SAMPLED = 64
"""Entries read of each parameter (our choice)."""

_ADAPTERS = re.compile(r"(^|\.)(lora_\w+|modules_to_save|token_adapter|trainable_tokens_\w+)(\.|$)")
_WRAPPERS = re.compile(r"\.(base_layer|original_module)(?=\.|$)")


def plain_name(name: str) -> str:
    """A module's or parameter's name as the base has it.

    >>> plain_name("base_model.model.lm_head.base_layer.weight")
    'lm_head.weight'
    """
    return _WRAPPERS.sub("", name.removeprefix("base_model.model."))


@torch.no_grad()
def base_digest(model: nn.Module) -> str:
    """BLAKE2b (128 bits, hexadecimal) of some entries of each parameter of a model, without its adapters.

    Entries are rounded to bfloat16, so that a base is known again when it is loaded in a wider type; of quantised
    weights it is counted how often each half byte occurs, for bitsandbytes stores them in another order and shape once
    they have been used on a CPU. It tells models apart; two of one digest may differ in entries that were not read.

    Raises:
        UserError: not a transformers model.

    """
    digest = blake2b(digest_size=16)
    named = {plain_name(n): p for n, p in unwrapped(model).named_parameters() if not _ADAPTERS.search(n)}
    for name in sorted(named):
        digest.update(f"{name} ".encode() + _some(named[name]))
    return digest.hexdigest()


def _some(parameter: Tensor) -> bytes:
    flat = parameter.detach().flatten()
    if not parameter.is_floating_point():
        packed = flat.view(torch.uint8)
        counts = packed.bitwise_and(15).bincount(minlength=16) + packed.bitwise_right_shift(4).bincount(minlength=16)
        return str(counts.tolist()).encode()
    entries = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].bfloat16().contiguous()
    return str(list(parameter.shape)).encode() + bytes(entries.cpu().view(torch.uint8).numpy().tobytes())
