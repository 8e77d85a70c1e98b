"""The penalty once more, the obvious way: chosen tokens by loops, the loss with the penalty in it, autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from limberlm.observe.model.sites import locate, unwrapped

DIVIDED = {"sft": True, "dpo": False, "kto": False, "grpo": True}
"""Whether `compute_loss` is itself divided by the length of the accumulation window, and not the trainer after it."""


def plain_inverse_ratio(states: Tensor) -> Tensor:
    """1/PR of the directions, from the covariance."""
    directions = states / states.norm(dim=1, keepdim=True)
    covariance = torch.cov(directions.T)
    return covariance.square().sum() / covariance.trace() ** 2


def plain_anchored(states: Tensor, reference: float) -> Tensor:
    ratio = 1 / torch.clamp(plain_inverse_ratio(states) - 1 / (len(states) - 1), min=1 / states.shape[1])
    return torch.clamp((reference - ratio) / reference, min=0)


def chosen(inputs: dict[str, Any], tokens: str) -> list[int]:
    """Flat positions of the tokens: no padding, no first tokens, each prompt once; completions alone if wanted."""
    ids, labels = inputs["input_ids"], inputs.get("labels")
    rows, length = ids.shape
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    found: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    for row in range(rows):
        real = [t for t in range(length) if mask is None or mask[row, t]]
        starts = {real[0]}
        if positions is not None:
            starts |= {t for t in real if positions[row, t] == 0}
        answer = [t for t in real if labels is None or labels[row, t] != -100]
        first = min(answer)
        prompt = tuple(int(ids[row, t]) for t in real if t < first)
        wanted = answer
        if tokens == "all" and (labels is None or prompt not in prompts):
            wanted = real
        elif tokens == "all":
            wanted = [t for t in real if t >= first]
        prompts.add(prompt)
        found += [row * length + t for t in wanted if t not in starts]
    return found


def with_penalty(
    made: Trainer, kind: str, sites: list[str], weight: float, penalty: Callable[[Tensor], Tensor], tokens: str
) -> list[float]:
    """Put weight * mean over sites of R into a trainer's own loss; returns the values of R, as they come."""
    compute, parts = made.compute_loss, locate(made.model)
    states: dict[str, Tensor] = {}
    seen: dict[str, Any] = {}
    values: list[float] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled():
            seen.update({"position_ids": None, "attention_mask": None, "labels": None} | kwargs)

    def keep(site: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            if torch.is_grad_enabled():
                states[site] = output

        return hook

    unwrapped(made.model).register_forward_pre_hook(look, with_kwargs=True)
    for site in sites:
        part = parts.final_norm if site == "final_norm" else parts.blocks[int(site.removeprefix("block."))]
        part.register_forward_hook(keep(site))

    def computed(*args: Any, **kwargs: Any) -> Tensor:
        loss = compute(*args, **kwargs)
        index = chosen(seen, tokens)
        found = [penalty(states[site].flatten(0, 1)[index]) for site in sites]
        values.extend(each.item() for each in found)
        added = weight * sum(found) / len(sites)
        return loss + (added / made.current_gradient_accumulation_steps if DIVIDED[kind] else added)

    made.compute_loss = computed
    return values
