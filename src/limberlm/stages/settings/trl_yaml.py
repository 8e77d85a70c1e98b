"""A TRL configuration file, what `trl sft --config sft.yaml` reads, as a stage.

Such a file is flat: script arguments, the trainer's settings, the model's with LoRA, and `datasets:`, side by side.
What of it a study decides is left out, each with its reason. Nothing in it is run, and no environment variable is set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from limberlm.errors import UserError, nearest
from limberlm.settings_file import read_settings
from limberlm.stages.kind import TrainerKind
from limberlm.stages.settings.arguments import checked, trainer_config
from limberlm.stages.settings.decided import AGAINST, OWNED
from limberlm.stages.settings.trl_parts import lora_settings, reward_name, row_source

_MODEL = "a stage starts from the chain's checkpoint, loaded in float32"
_READ = "rows are read whole, and held-out rows are taken from the training rows"
_LAUNCH = "how processes are launched is not a stage's"
_MEASURED = "a study measures every node itself"
_IGNORED: dict[str, str] = {
    "env": "no environment variable is set for a stage; set them before the command",
    **dict.fromkeys(("model_name_or_path", "model_revision", "dtype", "attn_implementation"), _MODEL),
    **dict.fromkeys(("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"), _MODEL),
    **dict.fromkeys(("dataset_test_split", "dataset_streaming", "streaming", "test_split_size"), _READ),
    **dict.fromkeys(("ignore_bias_buffers", "accelerate_config"), _LAUNCH),
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "per_device_eval_batch_size", "eval_packing"), _MEASURED),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), AGAINST["load_best_model_at_end"].reason),
}
_FAMILIES = {
    "eval_": _MEASURED,
    "save_": OWNED["save_steps"],
    "logging_": OWNED["logging_steps"],
    "hub_": AGAINST["push_to_hub"].reason,
}


@dataclass(frozen=True)
class TrlStage:
    """What a TRL file says of a stage.

    Attributes:
        args: the trainer's settings under TRL's names, as written.
        data: the source of the rows, as `load_stage_data` takes it; None if the file names none.
        split: which split of it.
        subset: which configuration of a hub data set.
        adapter: LoRA settings under PEFT's names; None without `use_peft`.
        full: whether all weights are trained.
        reward: of grpo, as `reward_function` takes it; None if the file names none.
        ignored: what was left out, and why.

    """

    args: dict[str, Any]
    data: str | None
    split: str | None
    subset: str | None
    adapter: dict[str, Any] | None
    full: bool
    reward: str | None = None
    ignored: dict[str, str] = field(default_factory=dict)


def read_trl_yaml(path: Path, kind: TrainerKind) -> TrlStage:
    """Read a TRL configuration file.

    Args:
        path: the file.
        kind: the trainer that the stage uses; the file does not say.

    Raises:
        UserError: an unreadable file, a setting that TRL does not have or of the wrong type, or one that a stage
            cannot follow; names the file and the setting.

    """
    known, where = _known(kind), f"{path}:"
    ignored: dict[str, str] = {}
    args: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for name, value in _read(path).items():
        if name in known.trainer and name in AGAINST and AGAINST[name].mild:
            if value and AGAINST[name].asked(value):
                ignored[name] = AGAINST[name].reason
        elif reason := _reason(name, known):
            ignored[name] = reason
        elif name in known.trainer:
            args[name] = value
        elif name in known.others:
            given[name] = value if name == "datasets" else _checked(value, known.others[name], f"{where} {name}")
        else:
            raise UserError(f"{where} {name}: TRL has no such setting{nearest(name, known.names)}")
    trainer_config(kind, args, where=where, seed=0, scratch=Path("unused"))
    given = {name: value for name, value in given.items() if value is not None}
    data, split, subset = row_source(where, given, ignored)
    adapter = lora_settings(where, given, ignored)
    return TrlStage(args, data, split, subset, adapter, adapter is None, reward_name(where, given), ignored)


def _read(path: Path) -> dict[str, Any]:
    content = read_settings(path, "TRL configuration file")
    if not all(isinstance(name, str) for name in content):
        raise UserError(f"{path}: a TRL configuration file is a mapping from settings to values")
    return content


@dataclass(frozen=True)
class _Known:
    """TRL's settings with their types: the trainer's, the script's and the model's; and those of the launcher."""

    trainer: Mapping[str, Any]
    others: Mapping[str, Any]
    launcher: frozenset[str]

    @property
    def names(self) -> list[str]:
        return [*self.trainer, *self.others, *self.launcher, "env"]


def _known(kind: TrainerKind) -> _Known:
    from accelerate.commands.launch import launch_command_parser
    from trl.scripts.grpo import GRPOScriptArguments
    from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments
    from trl.trainer.model_config import ModelConfig

    script = GRPOScriptArguments if kind.name == "grpo" else ScriptArguments
    positional = {"help", "training_script", "training_script_args"}
    launcher = frozenset(action.dest for action in launch_command_parser()._actions) - positional
    others = {**_settings(script), **_settings(ModelConfig), **_settings(DatasetMixtureConfig)}
    return _Known(_settings(kind.config_class()), others, launcher | {"accelerate_config"})


def _settings(holder: Any) -> dict[str, Any]:
    hints = get_type_hints(holder)
    return {each.name: (hints[each.name], each) for each in dataclasses.fields(holder) if each.init}


def _reason(name: str, known: _Known) -> str | None:
    """Why a setting is left out whatever its value, if it is."""
    if name in known.trainer and name in OWNED:
        return OWNED[name]
    family = next((reason for start, reason in _FAMILIES.items() if name.startswith(start)), None)
    if name in _IGNORED or (name in known.trainer and family):
        return _IGNORED.get(name) or family
    return _LAUNCH if name in known.launcher and not {name} & {*known.trainer, *known.others} else None


def _checked(value: Any, setting: tuple[Any, Any], where: str) -> Any:
    return None if value is None else checked(value, setting[0], where, setting[1])
