"""What a study file may say of one stage. Apart from the other settings, which know the trainers and interventions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limberlm.errors import nearest
from limberlm.outcomes.plasticity.settings import FUTURE_TASKS
from limberlm.stages.reward import VERIFIER
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.trainers import TRAINERS

Adapter = AdapterSettings | Literal["full"]
Names = tuple[str, ...]


class ResourceSettings(BaseModel):
    """What a job of a stage takes of a cluster while the stage is trained or measured.

    Up to one GPU it changes no result, and several change rounding, or what is drawn at random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int | None = Field(None, ge=1, description="processor cores, and threads, for each GPU; default: 1")
    gpus: float | None = Field(
        None, ge=0, description="GPUs that train it, or a part of one; default: one if the cluster has any"
    )
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field({}, description="a cluster's own resources by name")

    @property
    def processes(self) -> int:
        """How many train a stage together on a cluster: one for each GPU."""
        return max(1, int(self.gpus or 1))


class StageSettings(BaseModel):
    """One stage: TRL's trainer, its data, and TRL's own arguments by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trainer: str
    data: str | None = Field(None, description="testbed:SKILL, a .jsonl or .parquet file, a Dataset's folder, a hub id")
    split: str | None = Field(None, description="of a hub id, or of a folder with several: which split; train")
    subset: str | None = Field(None, description="of a hub id: which configuration")
    reward: str | None = Field(None, description="grpo: `verifier`, or a function of yours as package.module:function")
    rows: int | None = Field(None, ge=1, le=10**7, description="at most this many training rows")
    adapter: Adapter | None = Field(None, description="this stage's own adapter, or `full`; default: the study's")
    config: str | None = Field(None, description="a YAML file for `trl sft` and the like; `args` go on top")
    task: str | None = Field(None, description="what it teaches; default: its testbed skill, or its own name")
    checkpoints: int = Field(0, ge=0, le=1000, description="keep the adapter at so many log-spaced steps")
    resources: ResourceSettings = Field(ResourceSettings(), description="of a cluster; what is not named: the study's")
    args: dict[str, Any] = {}

    @field_validator("trainer")
    @classmethod
    def _known(cls, trainer: str) -> str:
        if trainer not in TRAINERS:
            raise ValueError(f'"{trainer}" is none of {", ".join(TRAINERS)}{nearest(trainer, TRAINERS)}')
        return trainer

    @model_validator(mode="after")
    def _fields_fit(self) -> StageSettings:
        if self.trainer == "grpo" and self.reward is None:
            raise ValueError("trainer: grpo has no reward: add `reward: verifier`, or a function of yours")
        if self.trainer != "grpo" and self.reward is not None:
            raise ValueError(
                f"reward: {self.reward} and trainer: {self.trainer}, which takes none: remove the reward, or use grpo"
            )
        if self.reward not in (None, VERIFIER) and ":" not in str(self.reward):
            raise ValueError(f"reward: {self.reward} is neither `verifier` nor written package.module:function")
        if self.data is None and self.config is None:
            raise ValueError("no data: add `data:`, or a `config:` that names a dataset")
        if (self.data or "").removeprefix("testbed:") in FUTURE_TASKS:
            raise ValueError(
                f"data: {self.data} is a future task, which plasticity is measured on and which no chain may train on: "
                "choose another skill"
            )
        if self.data is not None and self.data.startswith("testbed:") and (self.split or self.subset):
            raise ValueError(f"data: {self.data} and split or subset, which only other data have: remove them")
        return self

    @property
    def source(self) -> str:
        """Where the rows come from.

        Raises:
            ValueError: it is not known before the stage's `config` is read.

        """
        if self.data is None:
            raise ValueError("the stage's config is not read yet")
        return self.data
