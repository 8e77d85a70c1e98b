"""What is checked of a stage: that policy and reference are its start, and that what it saved is what it trained.

The logits on `fixed_tokens` tell, in float32 and evaluation mode. The first step's value alone would not do: after a
small adapter, or under 16-bit autocast, a wrong reference may move it by less than what must be allowed for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

from limberlm.errors import NodeFailed
from limberlm.observe.updates.changes import HandOver
from limberlm.stages.hand_over.policies import Left, Start, unmerged
from limberlm.stages.hand_over.rounding import MergeRounding, fixed_logits, merge_rounding, relative_rms

LIMIT = 1e-4
"""Largest relative RMS between logits that must be equal but for float32 rounding. Our choice."""


def same_function(model: Any, ended: Tensor) -> float:
    """How far the logits of a trainer's model are from those where the stage before ended (relative RMS).

    Raises:
        NodeFailed: beyond float32 rounding.

    """
    return _within(fixed_logits(model), ended, "the stage does not start where the one before it ended: its logits are")


def same_reference(trainer: Any, ended: Tensor) -> float | None:
    """How far the logits of a trainer's reference model are from those where the stage before ended (relative RMS).

    None where the trainer keeps none: SFT, `beta` 0, or what the reference says was read from the start already.

    Raises:
        NodeFailed: beyond float32 rounding.

    """
    from trl.trainer.utils import use_adapter

    if not hasattr(trainer, "ref_model") or trainer.beta == 0.0:
        return None
    if trainer.ref_model is not None:
        found = fixed_logits(trainer.accelerator.unwrap_model(trainer.ref_model))
    elif isinstance(trainer.model, PeftModel):
        with use_adapter(trainer.model, "ref" if "ref" in trainer.model.peft_config else None):  # as TRL does
            found = fixed_logits(trainer.model)
    else:
        return None
    return _within(found, ended, "the reference model is not the stage's start: its logits are")


def drops_out(model: Any, start: Start) -> bool:
    """Whether units are dropped in training that reference and policy would drop differently.

    A fresh adapter's own dropout changes nothing at the first step, where B is 0.
    """
    return any(
        isinstance(module, nn.Dropout) and module.p > 0 and not (start.trained == "fresh" and "lora_dropout" in name)
        for name, module in model.named_modules()
    )


def verified_rounding(
    base: Path | str, left: Sequence[Left], hand_over: HandOver, ended: Tensor
) -> MergeRounding | None:
    """What merging the last stage's adapter costs, once what it saved is known to be what it trained.

    Args:
        base: the model before the first stage.
        left: what the stages left, the last one included.
        hand_over: how adapters reach the next stage.
        ended: the logits of the model that the last stage trained.

    Raises:
        NodeFailed: the logits are not finite, or what was saved gives others than what was trained.

    """
    if not bool(ended.isfinite().all()):
        raise NodeFailed("after the last step the model's logits are not finite: lower the learning rate")
    model = unmerged(base, left, hand_over)
    _within(
        fixed_logits(model), ended, f"what was saved in {left[-1].folder.name} is not what was trained: its logits are"
    )
    return merge_rounding(model) if left[-1].kind == "lora" else None


def _within(found: Tensor, wanted: Tensor, otherwise: str) -> float:
    apart = relative_rms(found, wanted)
    if not apart < LIMIT:  # also where it is not a number
        raise NodeFailed(
            f"{otherwise} {apart:.2g} apart (relative RMS), where float32 rounding gives less than {LIMIT:g}"
        )
    return apart
