"""Which folders show what a stage changed: the arguments that `measure_updates` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limberlm.observe.updates.changes import HandOver
from limberlm.stages.hand_over.policies import Left, checkpoint


@dataclass(frozen=True)
class UpdateChain:
    """The last stages of a chain, as `measure_updates(stages, base, hand_over=hand_over)` reads them.

    Attributes:
        stages: folders of one kind, adapters or models, in order; the last is the stage in question.
        base: the model that the first of them started from.
        hand_over: how adapters reach the next stage.

    """

    stages: tuple[Path, ...]
    base: Path | str
    hand_over: HandOver


def stage_update(
    left: Left, previous: Sequence[Left], *, base: Path | str, hand_over: HandOver, scratch: Path
) -> UpdateChain:
    """The stage's update, with those of the stages before it that it can be compared with.

    `measure_updates` reads adapters or models, not both, so the chain goes back to where the kind last changed. The
    model there is the base, or one that a full stage left. Only where full weights follow adapters it lies nowhere,
    and is written in float32, so that W_t - W_(t-1) is a difference of 32-bit weights.

    Args:
        left: what the stage left.
        previous: what the stages before it left, in order.
        base: the model before the first stage.
        hand_over: how adapters reach the next stage.
        scratch: a folder that may be written, and is used where full weights follow adapters.

    Raises:
        UserError: a model cannot be loaded.

    """
    chain = [*previous, left]
    first = max((index + 1 for index, each in enumerate(chain) if each.kind != left.kind), default=0)
    before, stages = chain[:first], tuple(each.folder for each in chain[first:])
    if not before:
        return UpdateChain(stages, base, hand_over)
    if before[-1].kind == "full":
        return UpdateChain(stages, before[-1].folder, hand_over)
    checkpoint(base, before, hand_over).save_pretrained(scratch)
    return UpdateChain(stages, scratch, hand_over)
