"""Hand-over: how what a stage left on disk becomes the checkpoint that the next stage starts from.

| policy     | the next stage starts from | trains         | its reference model, where it has one |
|------------|----------------------------|----------------|---------------------------------------|
| `merge`    | every adapter added in     | a new adapter  | the new adapter off                   |
| `continue` | the last adapter on        | that adapter   | a frozen copy of it                   |
| `stack`    | every adapter added in     | a new adapter  | the new adapter off                   |
| full       | the checkpoint             | every weight   | the checkpoint, again from its folder |

`stack` is trained as a fold: with two adapters active, TRL takes a wrong reference and then drops the trained one.
Adapters are added in float32 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from limberlm.observe.model.loading import load_model, put_on
from limberlm.observe.updates.changes import HandOver
from limberlm.stages.adapter import refuse_other_settings
from limberlm.stages.hand_over.rounding import ADAPTER, MergeRounding, fixed_logits
from limberlm.stages.settings.adapter import AdapterSettings


@dataclass(frozen=True)
class Left:
    """What a finished stage left on disk: an adapter's folder, or a model's with float32 safetensors."""

    kind: Literal["lora", "full"]
    folder: Path


@dataclass(frozen=True)
class HandOverReport:
    """What was verified where a stage took over and where it ended.

    Attributes:
        policy: how adapters reach the next stage.
        trained: a `fresh` adapter, the `continued` one of the stage before, or the `full` weights.
        first_step: the logged quantities that an untouched policy determines: value found, value expected.
        merge_rounding: what merging the stage's own adapter costs; None for full weights.
        continuity: relative RMS between the logits where the stage before ended, its adapter not merged, and those
            where this one starts, as its trainer holds it (`fixed_tokens`, float32).
        reference: the same between where the stage before ended and the trainer's reference model; None where it
            keeps none (SFT, GRPO at `beta` 0), or has read all it needs of it (full weights, precomputed).

    """

    policy: HandOver
    trained: Literal["fresh", "continued", "full"]
    first_step: dict[str, tuple[float, float]]
    merge_rounding: MergeRounding | None
    continuity: float
    reference: float | None


@dataclass(frozen=True)
class Start:
    """A stage's start, as its trainer takes it.

    Attributes:
        model: the checkpoint; under `continue`, after another adapter stage, with that stage's adapter on it.
        adapter: PEFT's configuration of a fresh adapter, or None.
        trained: which weights the stage trains.
        ended: the logits where the stage before ended.

    """

    model: Any
    adapter: LoraConfig | None
    trained: Literal["fresh", "continued", "full"]
    ended: Tensor


def merge_adapters(base: Any, adapters: Sequence[Path]) -> PreTrainedModel:
    """Add the adapters into `base`, first to last, in place.

    Merging in 16 bits loses up to 44 % of a small adapter's effect, so the base must be in float32.

    Raises:
        ValueError: the base is not in float32.

    """
    model: PreTrainedModel = base
    for folder in adapters:
        if model.dtype != torch.float32:
            raise ValueError(f"adapters are merged in float32 only, and the base is in {model.dtype}")
        model = put_on(model, folder, ADAPTER).merge_and_unload()
    return model


def checkpoint(base: Path | str, left: Sequence[Left], hand_over: HandOver) -> PreTrainedModel:
    """The plain model after these stages: float32, evaluation mode, no adapter on it; the same bits whoever builds it.

    Args:
        base: the model before the first stage, a folder or hub id.
        left: what the stages left, in order. The last full one takes the base's place; under `continue` the last
            adapter after it holds all that its stages learnt, otherwise every adapter after it counts.
        hand_over: how adapters reach the next stage.

    Raises:
        UserError: a model cannot be loaded.

    """
    origin, adapters = ingredients(base, left, hand_over)
    return _plain(merge_adapters(load_model(origin, dtype=torch.float32), adapters))


def unmerged(base: Path | str, left: Sequence[Left], hand_over: HandOver, *, trainable: bool = False) -> Any:
    """The same function with the last stage's adapter still on, as that stage ended; plain where it trained in full."""
    origin, adapters = ingredients(base, left, hand_over)
    model = merge_adapters(load_model(origin, dtype=torch.float32), adapters[:-1])
    return put_on(model, adapters[-1], ADAPTER, trainable=trainable) if adapters else _plain(model)


def stage_start(
    base: Path | str, left: Sequence[Left], hand_over: HandOver, adapter: AdapterSettings | None, reload: Path | None
) -> Start:
    """What the stage after these starts from.

    Args:
        base: the model before the first stage.
        left: what the stages before left, in order.
        hand_over: how adapters reach the next stage.
        adapter: of the stage; None trains all weights.
        reload: with full weights, where the start may be saved for the trainer to load its reference from. The model
            names a folder with exactly its weights then: TRL loads a reference model from that path, and a model merged
            in memory still names the weights before it.

    Raises:
        UserError: a model cannot be loaded, or `continue` is to go on with another adapter than there is.

    """
    continued = adapter is not None and hand_over == "continue" and bool(left) and left[-1].kind == "lora"
    model = unmerged(base, left, hand_over, trainable=continued)
    ended = fixed_logits(model)
    if continued and adapter is not None:
        refuse_other_settings(adapter, left[-1].folder, model.config)
        return Start(model, None, "continued", ended)
    merged = isinstance(model, PeftModel)
    plain = _plain(model.merge_and_unload() if merged else model)
    if adapter is not None:
        return Start(plain, adapter.lora(), "fresh", ended)
    if merged:
        plain.config._name_or_path = "" if reload is None else str(reload)  # without one TRL refuses to load
        if reload is not None:
            plain.save_pretrained(reload)
    return Start(plain, None, "full", ended)


def ingredients(base: Path | str, left: Sequence[Left], hand_over: HandOver) -> tuple[Path | str, list[Path]]:
    """The full weights that a checkpoint starts from, and the adapters that are added into them."""
    origin, adapters = base, list[Path]()
    for each in left:
        if each.kind == "full":
            origin, adapters = each.folder, []
        else:
            adapters = [each.folder] if hand_over == "continue" else [*adapters, each.folder]
    return origin, adapters


def _plain(model: Any) -> PreTrainedModel:
    """The model as if it had just been loaded: PEFT leaves the weights it merged into frozen."""
    plain: PreTrainedModel = model.requires_grad_(True).eval()
    return plain
