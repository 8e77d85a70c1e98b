"""What a trainer does that an intervention cannot work with, refused when training begins."""

from __future__ import annotations

from typing import Any

from limberlm.errors import UserError

CONFIGS = {"SFTConfig": "sft", "DPOConfig": "dpo", "KTOConfig": "kto", "GRPOConfig": "grpo"}
"""TRL's configuration classes, and the trainers' names in a study file."""


def refuse_trainer(args: Any, name: str, trainers: tuple[str, ...]) -> None:
    """Refuse one of TRL's trainers that the intervention cannot serve; trainers unknown here pass.

    Raises:
        UserError: names both.

    """
    found = next((CONFIGS[each.__name__] for each in type(args).__mro__ if each.__name__ in CONFIGS), None)
    if found is not None and found not in trainers:
        raise UserError(f"{name}: cannot be used with trainer {found}, only with {', '.join(trainers)}; leave it out")


STEPS_EARLY = "steps the optimiser inside backward, before the penalty could be added"


def refuse_deepspeed(args: Any, name: str, why: str = STEPS_EARLY) -> None:
    """Refuse DeepSpeed, whose engine keeps copies of the weights, steps inside `backward` and scales losses by itself.

    Raises:
        UserError: names the setting.

    """
    if getattr(args, "deepspeed", None) or getattr(args, "deepspeed_plugin", None):
        raise UserError(f"{name}: deepspeed {why}; train without deepspeed, or leave the intervention out")
