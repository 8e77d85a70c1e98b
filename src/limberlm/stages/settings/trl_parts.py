"""What a TRL configuration file says of rows, adapter and reward, in a study's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from limberlm.errors import UserError, nearest
from limberlm.stages.data.sources import TESTBED
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.settings.arguments import checked

_LORA = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
_TRL_REWARDS = ("accuracy_reward", "reasoning_accuracy_reward", "think_format_reward")
_FILES = {"json": (".json", ".jsonl"), "parquet": (".parquet",)}


def row_source(
    where: str, given: Mapping[str, Any], ignored: dict[str, str]
) -> tuple[str | None, str | None, str | None]:
    """The source of the rows, its split and its subset.

    Args:
        where: the file, as error messages begin.
        given: its settings.
        ignored: takes what is left out, with the reason.

    Raises:
        UserError: a mixture of several data sets, or one that cannot be followed.

    """
    mixture = given.get("datasets")
    if mixture is None:
        source = given.get("dataset_name")
        return source, _split(source, given.get("dataset_train_split")), given.get("dataset_config")
    for name in ("dataset_name", "dataset_config", "dataset_train_split"):
        if name in given:
            ignored[name] = "TRL takes `datasets` where both are given"
    if not isinstance(mixture, list) or not mixture or not all(isinstance(each, dict) for each in mixture):
        raise UserError(f"{where} datasets: a list of mappings with `path:` is wanted")
    if len(mixture) > 1:
        raise UserError(f"{where} datasets: a stage has one data set; join these into one file, or make stages of them")
    return _of_mixture(where, mixture[0])


def lora_settings(where: str, given: Mapping[str, Any], ignored: dict[str, str]) -> dict[str, Any] | None:
    """LoRA settings under PEFT's names, or None without `use_peft`; arguments as for `row_source`.

    Raises:
        UserError: a quantised base, or a setting that a stage's adapter does not have.

    """
    for name in ("load_in_8bit", "load_in_4bit"):
        if given.get(name):
            raise UserError(f"{where} {name}: a stage starts from float32 weights, not from quantised ones; remove it")
    if not given.get("use_peft"):
        written = [name for name in (*_LORA, "lora_task_type") if given.get(name)]
        ignored |= dict.fromkeys(written, "use_peft is not on, so TRL trains all weights")
        return None
    if given.get("lora_task_type", "CAUSAL_LM") != "CAUSAL_LM":
        raise UserError(f"{where} lora_task_type: {given['lora_task_type']}, where a stage trains a causal model")
    adapter = {_LORA[name]: value for name, value in given.items() if name in _LORA and value is not False}
    for name, ours in _LORA.items():
        if ours in adapter and ours not in AdapterSettings.model_fields:
            raise UserError(f"{where} {name}: a stage's adapter has no such setting; remove it")
    if "target_modules" not in adapter:
        ignored["lora_target_modules"] = "not given, where PEFT would choose by the model: the adapter's default holds"
    elif len(adapter["target_modules"]) == 1:
        # TRL hands PEFT a text here: all-linear, or a pattern for whole names; a plain name is meant as a name
        only = adapter["target_modules"][0]
        adapter["target_modules"] = [only] if only.isidentifier() else only
    return adapter


def reward_name(where: str, given: Mapping[str, Any]) -> str | None:
    """The reward as `package.module:function`, or None if the file names none.

    Raises:
        UserError: several rewards, a reward model, or a name that is no path.

    """
    if given.get("reward_model_name_or_path"):
        raise UserError(f"{where} reward_model_name_or_path: a reward model is not supported; give a function")
    names = given.get("reward_funcs")
    if names is None:
        return None
    if len(names) != 1:
        raise UserError(f"{where} reward_funcs: {len(names)} functions, where a stage has one; add them up in one")
    if names[0] in _TRL_REWARDS:
        return f"trl.rewards:{names[0]}"
    module, _, function = names[0].rpartition(".")
    if not module:
        raise UserError(
            f"{where} reward_funcs: {names[0]} is neither a path such as my_lib.rewards.mine nor one of TRL's own "
            f"without settings ({', '.join(_TRL_REWARDS)})"
        )
    return f"{module}:{function}"


def _of_mixture(where: str, entry: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    from trl.scripts.utils import DatasetConfig

    hints = get_type_hints(DatasetConfig)
    for name, value in entry.items():
        if name not in hints:
            raise UserError(f"{where} datasets.0.{name}: TRL has no such setting{nearest(str(name), hints)}")
        checked(value, hints[name], f"{where} datasets.0.{name}")
    if not entry.get("path"):
        raise UserError(f"{where} datasets.0.path: missing")
    for name in ("data_dir", "columns"):
        if entry.get(name) is not None:
            raise UserError(f"{where} datasets.0.{name}: is not supported; make a file of the rows you want")
    source, files = str(entry["path"]), entry.get("data_files")
    if files is None:
        return source, _split(source, entry.get("split")), entry.get("name")
    if not isinstance(files, str) or Path(files).suffix not in _FILES.get(source, ()):
        raise UserError(f"{where} datasets.0.data_files: only one file is supported, with `path: json` or parquet")
    return files, None, None


def _split(source: str | None, given: str | None) -> str | None:
    """TRL's default is train; a file and the testbed have no splits."""
    if source is None or source.startswith(TESTBED) or Path(source).suffix in (".json", ".jsonl", ".parquet"):
        return given
    return given or "train"
