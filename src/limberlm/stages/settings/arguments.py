"""TRL's own settings by name, checked before anything is trained."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from limberlm.errors import UserError, nearest
from limberlm.stages.kind import TrainerKind
from limberlm.stages.settings.decided import AGAINST, OWNED

_LEAST = {"learning_rate": 0, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}


def trainer_config(kind: TrainerKind, args: dict[str, Any], *, where: str, seed: int, scratch: Path) -> Any:
    """TRL's configuration object for a stage.

    Args:
        kind: the trainer.
        args: the user's settings under TRL's names; everything else keeps TRL's defaults, but for those that the
            kind names, and there is no 16-bit autocast and no gradient checkpointing where there is no GPU.
        where: names the settings in error messages, such as `stages.sft.args`, or `sft.yaml:`.
        seed: feeds the trainer, its data order and the adapter's start alike.
        scratch: the trainer's own folder.

    Raises:
        UserError: a setting that TRL does not have or refuses, one that the study decides, or two that contradict
            each other or do nothing together.

    """
    fields = {field.name: field for field in dataclasses.fields(kind.config_class()) if field.init}
    hints = get_type_hints(kind.config_class())
    for name in args:
        if name in OWNED:
            raise UserError(f"{named(where, name)}: the study decides this one; remove it")
        if name not in fields:
            raise UserError(f"{named(where, name)}: {kind.config} has no such setting{nearest(name, fields)}")
    given = {name: checked(value, hints[name], named(where, name), fields[name]) for name, value in args.items()}
    for name, value in given.items():
        if name in AGAINST and AGAINST[name].asked(value):
            raise UserError(f"{named(where, name)}: not in a stage: {AGAINST[name].reason}; remove it")
    on_cpu = not torch.cuda.is_available()
    settings: dict[str, Any] = {
        "report_to": "none",
        "disable_tqdm": True,
        **({"use_cpu": True, "bf16": False, "gradient_checkpointing": False} if on_cpu else {}),
        **kind.defaults,
        **given,
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
        raise UserError(
            f"{where.rstrip(':')}: {kind.config} refuses these settings ({' '.join(str(error).split())})"
        ) from error
    contradiction = _contradiction(config) or kind.contradiction(config)
    if contradiction:
        raise UserError(named(where, contradiction))
    return config


def checked(value: Any, hint: Any, where: str, field: Any = None) -> Any:
    """A value as TRL's own type: YAML reads 1e-4 as text where a number is wanted; one item may stand for a list.

    Args:
        value: as it was read.
        hint: the type of the setting.
        where: its name in error messages.
        field: the dataclass field, whose metadata may name the values there are.

    Raises:
        UserError: the value is not of that type, or not one of those.

    """
    kinds = (hint,) if get_origin(hint) is list else (hint, *get_args(hint))
    if isinstance(value, str) and str not in kinds and any(get_origin(each) is list for each in kinds):
        value = [value]
    if value is False and where.endswith("_strategy"):
        value = "no"  # which YAML reads as false
    try:
        value = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise UserError(f"{where}: {reprlib.repr(value)} is wrong ({reason})") from error
    if isinstance(value, float) and not math.isfinite(value):  # as text: YAML's own are refused with the file
        raise UserError(f"{where}: {value} is no finite number")
    choices = [] if field is None else list(field.metadata.get("choices", ()))
    if choices and value is not None and value not in choices:
        raise UserError(
            f"{where}: no such value: {value}{nearest(str(value), choices)}; there are {', '.join(choices)}"
        )
    return value


def named(where: str, name: str) -> str:
    """A setting's full name.

    >>> named("stages.sft.args", "seed"), named("sft.yaml:", "seed")
    ('stages.sft.args.seed', 'sft.yaml: seed')
    """
    return f"{where} {name}" if where.endswith(":") else f"{where}.{name}"


def _contradiction(config: Any) -> str | None:
    """What holds for every trainer."""
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            return f"{name}: {getattr(config, name):g}: it must be at least {least}"
    if config.max_steps == 0:
        return "max_steps: 0: a stage has at least one step; leave it out to count epochs"
    if config.max_steps < 0 and config.num_train_epochs <= 0:
        return f"num_train_epochs: {config.num_train_epochs:g} and no max_steps: the stage would have no step"
    return _tracker(config)


def _tracker(config: Any) -> str | None:
    """A tracker that the trainer would miss only once it is built, when other stages are trained already."""
    from transformers.integrations import integration_utils as trackers

    for name in config.report_to:
        if name not in trackers.INTEGRATION_TO_CALLBACK:
            return f"report_to: no such tracker: {name}{nearest(name, trackers.INTEGRATION_TO_CALLBACK)}"
        if name not in trackers.get_available_reporting_integrations():
            return f"report_to: {name} is not installed; install it, or remove it here"
    return None
