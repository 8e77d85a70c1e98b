"""The study file: what it may say, and what it means where it is silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limberlm.errors import UserError, nearest
from limberlm.outcomes.plasticity import PlasticitySettings
from limberlm.stages import TRAINERS, AdapterSettings
from limberlm.testbed import SKILLS


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageSettings(_Settings):
    """One stage: TRL's trainer, its data, and TRL's own arguments by name."""

    trainer: Literal["sft", "dpo", "grpo"]
    data: str = Field(description="testbed:SKILL, or the path of a JSONL file with TRL's columns")
    reward: Literal["verifier"] | None = Field(None, description="what grpo's completions are rewarded by")
    rows: int | None = Field(None, ge=1, le=10**7, description="at most this many training rows")
    checkpoints: int = Field(0, ge=0, le=1000, description="keep the adapter at so many log-spaced steps")
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _reward_fits_trainer(self) -> StageSettings:
        if self.trainer == "grpo" and self.reward is None:
            raise ValueError("trainer: grpo has no reward: add `reward: verifier`")
        if self.trainer != "grpo" and self.reward is not None:
            raise ValueError(
                f"reward: {self.reward} and trainer: {self.trainer}, which takes none: remove the reward, or use grpo"
            )
        return self


class MeasureSettings(_Settings):
    """What the geometry of every checkpoint is measured on."""

    probe: str = Field("testbed", description="testbed, or the path of a probe file")
    max_length: int = Field(256, ge=2)
    max_tokens: int | None = Field(None, ge=2)
    batch_size: int = Field(16, ge=1)


class OutcomeSettings(_Settings):
    """Which outcomes are measured after every stage."""

    skills: tuple[str, ...] | None = Field(None, description="default: the testbed skills that the stages teach")
    items: int = Field(128, ge=2, le=400, description="items per skill")
    ood: bool = Field(True, description="accuracy and loss on the skills' out-of-domain splits too")
    plasticity: PlasticitySettings | None = PlasticitySettings()

    @field_validator("skills")
    @classmethod
    def _known(cls, skills: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in skills or ():
            if name not in SKILLS:
                raise ValueError(f"no such testbed skill: {name}; there are {', '.join(SKILLS)}{nearest(name, SKILLS)}")
        return skills


class StudySettings(_Settings):
    """A whole study, as written in its YAML file."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str = "bundled"
    adapter: AdapterSettings = AdapterSettings()
    hand_over: Literal["merge"] = "merge"
    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")], StageSettings] = Field(min_length=1)
    orderings: tuple[tuple[str, ...], ...] | None = Field(None, description="default: one chain, in the stages' order")
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    measure: MeasureSettings = MeasureSettings()
    outcomes: OutcomeSettings = OutcomeSettings()

    @model_validator(mode="after")
    def _orderings_name_stages(self) -> StudySettings:
        if "base" in self.stages:
            raise ValueError('stages: "base" names the chain\'s start; call the stage something else')
        for ordering in self.orderings or ():
            for stage in ordering:
                if stage not in self.stages:
                    raise ValueError(f'orderings: no stage is called "{stage}"{nearest(stage, self.stages)}')
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: the same seed twice")
        return self

    def task(self, stage: str) -> str:
        """What a stage teaches: its testbed skill, or the stage's own name for other data."""
        data = self.stages[stage].data
        return data.removeprefix("testbed:") if data.startswith("testbed:") else stage

    @property
    def skills(self) -> tuple[str, ...]:
        """The testbed skills whose accuracy is measured after every stage."""
        if self.outcomes.skills is not None:
            return self.outcomes.skills
        return tuple(dict.fromkeys(task for task in map(self.task, self.stages) if task in SKILLS))

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """The orderings of the study, each a list of stage names."""
        return self.orderings or (tuple(self.stages),)


def load_settings(path: Path) -> StudySettings:
    """Read a study file.

    Raises:
        UserError: unreadable file, a YAML error (with its line), or a setting that is unknown or out of range.

    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a study file ({error})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a study file is a mapping with at least `stages:`")
    return parse_settings({"name": path.stem, **content}, str(path))


def parse_settings(content: Mapping[str, Any], where: str) -> StudySettings:
    """Settings from a mapping; `where` starts the error message.

    Raises:
        UserError: the first setting that is unknown, missing or out of range, by its full name.

    """
    try:
        return StudySettings.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown setting{nearest(str(problem['loc'][-1]), _fields_beside(problem['loc']))}"
    if problem["type"] == "missing":
        return f"{name}: missing"
    if name.endswith(".trainer"):
        return f'{name}: unknown trainer "{problem["input"]}"; there are {", ".join(TRAINERS)}' + nearest(
            str(problem["input"]), TRAINERS
        )
    message = problem["msg"].removeprefix("Value error, ")
    return (
        f"{name}: {message} (got {problem['input']!r})"
        if problem["type"] != "value_error"
        else _prefixed(name, message)
    )


def _prefixed(name: str, message: str) -> str:
    return f"{name}: {message}" if name else message


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    """The settings that exist where an unknown one stands."""
    model: type[BaseModel] = StudySettings
    nested: dict[str, type[BaseModel]] = {
        "adapter": AdapterSettings,
        "stages": StageSettings,
        "measure": MeasureSettings,
        "outcomes": OutcomeSettings,
        "plasticity": PlasticitySettings,
    }
    for part in location[:-1]:
        model = nested.get(str(part), model)
    return list(model.model_fields)
