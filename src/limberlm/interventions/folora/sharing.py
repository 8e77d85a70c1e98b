"""Which projections read the same input: q, k and v, say, and gate and up."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limberlm.observe.model.sites import unwrapped
from limberlm.observe.model.state import untouched

PROBE = (2, 8)
"""Sequences and tokens of the batch that tells (our choice)."""


def shared_inputs(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """The name of its input for each module: that of the first module that reads it.

    One short batch is run with all inputs kept alive; inputs are one when they are one object, or equal and not 0. A
    module that is not called, such as an expert that no token was routed to, has an input of its own.

    Args:
        model: the base; left as it was found.
        modules: by name in the base.

    Source: our choice; equal inputs have equal moments and bases, so that nothing changes but the memory.

    """
    base = unwrapped(model)
    seen: dict[str, list[Tensor]] = {}
    handles = [m.register_forward_pre_hook(partial(_keep, seen, n), with_kwargs=True) for n, m in modules.items()]
    ids = torch.arange(PROBE[0] * PROBE[1], device=base.device).view(PROBE) % base.config.get_text_config().vocab_size
    try:
        with untouched(base), torch.compiler.set_stance("force_eager"):
            base(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    firsts: list[str] = []
    inputs = {}
    for name in modules:
        inputs[name] = next((first for first in firsts if _one(seen.get(first), seen.get(name))), name)
        if inputs[name] == name:
            firsts.append(name)
    return inputs


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a linear layer is given [..., d]."""
    given: Tensor = args[0] if args else next(iter(kwargs.values()))
    return given


def _keep(
    seen: dict[str, list[Tensor]], name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    seen.setdefault(name, []).append(input_of(args, kwargs))


def _one(theirs: list[Tensor] | None, ours: list[Tensor] | None) -> bool:
    if not theirs or not ours or len(theirs) != len(ours):
        return False
    return all(a is b or _equal(a, b) for a, b in zip(theirs, ours, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b) and bool(a.any())
