"""The study file: what it may say, and what it means where it is silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from limberlm.errors import UserError, nearest
from limberlm.interventions.context import StageFacts
from limberlm.interventions.kinds import KINDS, problem
from limberlm.interventions.settings import InterventionSettings
from limberlm.outcomes.calibration import CalibrationSettings
from limberlm.outcomes.diversity import DiversitySettings
from limberlm.outcomes.lm_eval import LmEvalTask
from limberlm.outcomes.plasticity import PlasticitySettings
from limberlm.problems import first_problem
from limberlm.settings_file import read_settings
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.study.settings.orderings import OrderingSettings, expand
from limberlm.study.settings.stage import Adapter, Names, ResourceSettings, StageSettings
from limberlm.testbed import SKILLS

NONE = "none"  # the arm without an intervention
Control = Literal["zero_learning_rate", "random_adapter", "repeat", "joint", "equal_tokens", "full"]
T = TypeVar("T")
_SWITCH = BeforeValidator(lambda given: ({} if given else None) if isinstance(given, bool) else given)
Switched = Annotated[T | None, _SWITCH]
"""Settings that may also be switched on, with their defaults, or off."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Change(_Settings):
    """What an arm changes in the stages it applies to: TRL's settings, and interventions by key."""

    stages: Names | None = Field(None, min_length=1, description="the stages it applies to; default: all")
    args: dict[str, Any] = Field({}, description="TRL's settings that replace the stages' own")

    @model_validator(mode="after")
    def _says_something(self) -> _Change:
        if not self.args and not self.interventions:
            raise ValueError(f"says nothing: give args, or one of {', '.join(KINDS)}")
        return self

    @property
    def interventions(self) -> dict[str, InterventionSettings]:
        """The interventions that it adds, by key."""
        return {key: getattr(self, key) for key in KINDS if getattr(self, key) is not None}


_KEYS: dict[str, Any] = {key: (Annotated[kind.settings | None, _SWITCH], None) for key, kind in KINDS.items()}
Change = create_model("Change", __base__=_Change, **_KEYS)


class MeasureSettings(_Settings):
    """What the geometry of every checkpoint is measured on."""

    probe: str = Field("testbed", description="testbed, or the path of a probe file")
    every_stage: bool = Field(True, description="measure after every stage, or at the ends of chains only")
    against_base: bool = Field(False, description="the metrics that compare with the base too, such as CKA and KL")
    max_length: int = Field(256, ge=2)
    max_tokens: int | None = Field(None, ge=2)
    batch_size: int = Field(16, ge=1)


class OutcomeSettings(_Settings):
    """Which outcomes are measured."""

    skills: Names | None = Field(None, description="default: the testbed skills that the stages teach")
    items: int = Field(128, ge=2, le=400, description="items per skill")
    shared_questions: Literal["refuse", "leave_out"] = Field(
        "refuse", description="held-out questions of one stage's file that another stage trains on"
    )
    ood: bool = Field(True, description="accuracy and loss on the skills' out-of-domain splits too")
    refusals: bool = Field(True, description="refusal and over-refusal rates, where refusals are among the skills")
    plasticity: Switched[PlasticitySettings] = Field(PlasticitySettings(), description="false to leave it out")
    calibration: Switched[CalibrationSettings] = Field(None, description="true for its defaults")
    diversity: Switched[DiversitySettings] = Field(None, description="true for its defaults")
    lm_eval: tuple[LmEvalTask, ...] = Field((), description="lm-eval's tasks; needs limberlm[eval]")

    @field_validator("skills")
    @classmethod
    def _known(cls, skills: Names | None) -> Names | None:
        for name in skills or ():
            if name not in SKILLS:
                raise ValueError(f"no such testbed skill: {name}; there are {', '.join(SKILLS)}{nearest(name, SKILLS)}")
        return skills


class StudySettings(_Settings):
    """A whole study, as written in its YAML file."""

    name: str = Field("study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str = "bundled"
    modules: str | None = Field(None, description="folder of your rewards' modules; default: the study file's own")
    adapter: Adapter = AdapterSettings()
    hand_over: Literal["merge", "continue", "stack"] = "merge"
    keep_merged: bool = Field(False, description="keep every checkpoint as a model of its own, besides its adapter")
    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")], StageSettings] = Field(min_length=1)
    orderings: tuple[Names, ...] | OrderingSettings | None = Field(
        None, description="default: one chain, in the stages' order"
    )
    interventions: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")], tuple[Change, ...]] = {NONE: ()}
    controls: tuple[Control, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    resources: ResourceSettings = ResourceSettings()
    measure: MeasureSettings = MeasureSettings()
    outcomes: OutcomeSettings = OutcomeSettings()

    @model_validator(mode="after")
    def _names_fit(self) -> StudySettings:
        if "base" in self.stages:
            raise ValueError('stages: "base" names the chain\'s start; call the stage something else')
        for ordering in self.chains:
            for stage in ordering:
                self._known_stage(stage, "orderings")
            if not ordering:
                raise ValueError("orderings: a chain without stages; remove it")
        if len(set(self.chains)) < len(self.chains):
            raise ValueError("orderings: the same ordering twice; remove one")
        for arm, changes in self.interventions.items():
            for stage in (stage for change in changes for stage in change.stages or ()):
                self._known_stage(stage, f"interventions.{arm}")
            for stage in self.stages:
                self._fit(arm, stage)
        if self.interventions.get(NONE):
            raise ValueError(f'interventions: "{NONE}" is the arm that changes nothing; call this one something else')
        for name in ("seeds", "controls"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}: the same one twice")
        return self

    def _fit(self, arm: str, stage: str) -> None:
        chosen: dict[str, InterventionSettings] = {}
        for change in self.interventions[arm]:
            if change.stages is None or stage in change.stages:
                twice = chosen.keys() & change.interventions
                if twice:
                    raise ValueError(f'interventions.{arm}: {min(twice)} twice in stage "{stage}"; keep one')
                chosen |= change.interventions
        own = self.stages[stage]
        lora = (own.adapter or self.adapter) != "full"
        found = problem(chosen, StageFacts(own.trainer, self.hand_over, lora, self.task(stage) in SKILLS))
        if found is not None:
            raise ValueError(f'interventions.{arm}, stage "{stage}": {found}; or name the `stages` it is for')

    def _known_stage(self, stage: str, where: str) -> None:
        if stage not in self.stages:
            raise ValueError(f'{where}: no stage is called "{stage}"{nearest(stage, self.stages)}')

    def task(self, stage: str) -> str:
        """What a stage teaches: its `task`, its testbed skill, or the stage's own name for other data."""
        chosen = self.stages[stage]
        if chosen.task is not None:
            return chosen.task
        data = chosen.data or ""
        return data.removeprefix("testbed:") if data.startswith("testbed:") else stage

    def resources_of(self, stage: StageSettings | None) -> ResourceSettings:
        """What a stage takes of a cluster, or the base: its own, or else the study's."""
        every = self.resources
        own = stage.resources if stage is not None else every
        return ResourceSettings(
            cpus=own.cpus or every.cpus or 1,
            gpus=every.gpus if own.gpus is None else own.gpus,
            custom=every.custom | own.custom,
        )

    @property
    def skills(self) -> Names:
        """The testbed skills whose accuracy is measured."""
        if self.outcomes.skills is not None:
            return self.outcomes.skills
        return tuple(dict.fromkeys(task for task in map(self.task, self.stages) if task in SKILLS))

    @property
    def chains(self) -> tuple[Names, ...]:
        """The orderings of the study, each a list of stage names."""
        if isinstance(self.orderings, OrderingSettings):
            return expand(self.orderings)
        return self.orderings or (tuple(self.stages),)


def load_settings(path: Path) -> StudySettings:
    """Read a study file.

    Raises:
        UserError: unreadable file, a YAML error (with its line), or a setting that is unknown or out of range.

    """
    return study_settings({"name": path.stem, **read_settings(path, "study file")}, str(path))


def study_settings(content: Mapping[str, Any], where: str) -> StudySettings:
    """Settings from a mapping; `where` starts the error message.

    Raises:
        UserError: the first setting that is unknown, missing or out of range, by its full name.

    """
    try:
        return StudySettings.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, StudySettings)}") from error
