"""TRL's own settings by name, checked before anything is trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from limberlm.errors import UserError, nearest
from limberlm.stages.kind import TrainerKind

# What a study decides: a stage that set these would change what the node's name stands for.
# The first step's loss must be logged, and logged as it is: it is what proves the reference model.
OWNED = (
    *("output_dir", "seed", "data_seed", "save_strategy", "save_steps", "resume_from_checkpoint"),
    *("logging_steps", "logging_strategy", "logging_nan_inf_filter"),
)


def trainer_config(kind: TrainerKind, args: dict[str, Any], *, where: str, seed: int, scratch: Path) -> Any:
    """TRL's configuration object for a stage.

    Args:
        kind: the trainer.
        args: the user's settings under TRL's names; everything else keeps TRL's defaults, but for those that the
            kind names, and there is no 16-bit autocast and no gradient checkpointing where there is no GPU.
        where: names the settings in error messages, such as `stages.sft.args`.
        seed: feeds the trainer, its data order and the adapter's start alike.
        scratch: the trainer's own folder.

    Raises:
        UserError: a setting that TRL does not have or refuses, or one that the study decides.

    """
    fields = [field.name for field in dataclasses.fields(kind.config_class()) if field.init]
    hints = get_type_hints(kind.config_class())
    for name in args:
        if name in OWNED:
            raise UserError(f"{where}.{name}: the study decides this one; remove it")
        if name not in fields:
            raise UserError(f"{where}.{name}: {kind.config} has no such setting{nearest(name, fields)}")
    on_cpu = not torch.cuda.is_available()
    settings: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        **({"use_cpu": True, "bf16": False, "gradient_checkpointing": False} if on_cpu else {}),
        **kind.defaults,
        **{name: _checked(value, hints[name], f"{where}.{name}") for name, value in args.items()},
        "output_dir": str(scratch),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
    }
    try:
        config = kind.config_class()(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"{where}: {kind.config} refuses these settings ({' '.join(str(error).split())})") from error
    contradiction = kind.contradiction(config)
    if contradiction:
        raise UserError(f"{where}.{contradiction}")
    return config


def _checked(value: Any, hint: Any, where: str) -> Any:
    """The value as TRL's own type: YAML reads 1e-4 as text, and a number is wanted; one loss may stand for a list."""
    if get_origin(hint) is list and isinstance(value, str):
        value = [value]
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        raise UserError(f"{where}: {value!r} is wrong ({error.errors()[0]['msg'].lower()})") from error
