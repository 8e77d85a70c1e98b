"""A study written out in full: absolute paths, TRL's YAML files read, so that it means the same from anywhere."""

from __future__ import annotations

from os.path import realpath  # Path.resolve raises where a link points at itself
from pathlib import Path
from typing import Any

import yaml

from limberlm.errors import UserError
from limberlm.files import refuse_address
from limberlm.interventions.kinds import located
from limberlm.outcomes.lm_eval import LmEvalTask
from limberlm.stages.data.sources import local_path
from limberlm.stages.reward import VERIFIER
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.settings.trl_yaml import read_trl_yaml
from limberlm.stages.trainers import TRAINERS
from limberlm.study.settings.config import Change, StudySettings
from limberlm.study.settings.stage import StageSettings

BUNDLED = "bundled"
TESTBED = "testbed"


def resolve(settings: StudySettings, folder: Path) -> StudySettings:
    """The same study with nothing left to look up; relative paths start at `folder`.

    What is no path there is taken as a hub id and stays as it is.

    Raises:
        UserError: a stage's `config` cannot be read, or says what the study says too; or a place is no path.

    """
    stages = {name: _stage(name, stage, folder) for name, stage in settings.stages.items()}
    measure = settings.measure
    refuse_address(settings.base, "base")
    refuse_address(measure.probe, "measure.probe")
    if measure.probe != TESTBED:
        measure = measure.model_copy(update={"probe": realpath(folder / measure.probe)})
    tasks = tuple(_benchmark(task, folder) for task in settings.outcomes.lm_eval)
    arms = {
        arm: tuple(_change(change, folder) for change in changes) for arm, changes in settings.interventions.items()
    }
    outcomes = settings.outcomes.model_copy(update={"lm_eval": tasks})
    base = settings.base if settings.base == BUNDLED else _located(settings.base, folder)
    own = any(stage.reward not in (None, VERIFIER) for stage in stages.values())
    modules = realpath(folder / (settings.modules or "")) if own else None
    changed = {"stages": stages, "measure": measure, "base": base, "modules": modules, "outcomes": outcomes}
    return settings.model_copy(update=changed | {"interventions": arms})


def as_yaml(settings: StudySettings) -> str:
    """The settings as a study file."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _change(change: Change, folder: Path) -> Change:
    return change.model_copy(update={key: located(key, each, folder) for key, each in change.interventions.items()})


def _stage(name: str, stage: StageSettings, folder: Path) -> StageSettings:
    if stage.config is not None:
        stage = _from_trl(name, stage, folder)
    refuse_address(stage.source, f"stages.{name}.data")
    here = local_path(stage.source, folder)
    return stage if here is None else stage.model_copy(update={"data": realpath(here)})


def _from_trl(name: str, stage: StageSettings, folder: Path) -> StageSettings:
    where = f"stages.{name}.config"
    path = folder / str(stage.config)
    said = read_trl_yaml(path, TRAINERS[stage.trainer])
    adapter: Any = "full" if said.full else AdapterSettings.model_validate(said.adapter) if said.adapter else None
    if stage.data is None and said.data is None:
        raise UserError(f"{where}: {path} names no dataset; add `data:` to the stage")
    return stage.model_copy(
        update={
            "config": None,
            "data": stage.data or said.data,
            "split": stage.split or (said.split if stage.data is None else None),
            "subset": stage.subset or (said.subset if stage.data is None else None),
            "adapter": stage.adapter or adapter,
            "reward": stage.reward or said.reward,
            "args": said.args | stage.args,
        }
    )


def _benchmark(task: LmEvalTask, folder: Path) -> LmEvalTask:
    """An lm-eval task whose files are found from anywhere."""
    name = realpath(folder / task.task) if (folder / task.task).is_file() else task.task
    include = None if task.include_path is None else realpath(folder / task.include_path)
    return task.model_copy(update={"task": name, "include_path": include})


def _located(place: str, folder: Path) -> str:
    """A model's folder as an absolute path; what is none, and can be a hub id, as it is."""
    here = (folder / place).exists() or place.startswith((".", "/")) or place.count("/") > 1
    return realpath(folder / place) if here else place
