"""What the plasticity probe is asked to do, and what it costs."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limberlm.errors import nearest
from limberlm.testbed import SKILLS

FUTURE_TASKS: tuple[str, ...] = tuple(name for name, skill in SKILLS.items() if skill.kind == "future")
"""The testbed's skills that no chain teaches, in the order in which a number of tasks takes them."""


class RandomLabelSettings(BaseModel):
    """The task-free probe: random symbols to be learned for fixed prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    symbols: int = Field(10, ge=2, le=64, description="labels C; the loss starts at ln C")
    prompts: int = Field(128, ge=2, le=4096, description="prompts, each with one label, read again and again")


class ReadinessSettings(BaseModel):
    """Gradient readiness: how strong and how reliable the first gradient on a future task is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    micro_batches: int = Field(16, ge=4, description="micro-batch gradients K, all held in memory at once")
    examples: int = Field(16, ge=1, description="examples b in each")
    at: int | None = Field(None, ge=1, description="batch size b' it is stated for; by default that of the training")
    curvature: bool = Field(False, description="the gain of the best step too, by Hessian-vector products")


class PlasticitySettings(BaseModel):
    """The budget of the plasticity probe, and what is read besides the loss.

    `task`, one name, is accepted for `tasks`; a number n of tasks means the first n of `FUTURE_TASKS`.

    >>> PlasticitySettings(tasks=2, learning_rate=[1e-3, 3e-3]).tasks
    ('codebook', 'cipher')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: tuple[str, ...] = Field(("codebook",), description="future tasks by name, or how many of them")
    steps: int = Field(30, ge=1, description="optimiser steps K on each task")
    batch_size: int = Field(16, ge=1, description="examples a step")
    learning_rate: float | tuple[float, ...] = Field(2e-3, description="one rate, or several: a sweep")
    every: int = Field(5, ge=1, description="steps between readings of the held-out loss")
    items: int = Field(64, ge=2, le=4096, description="held-out items of each task")
    threshold: float | None = Field(
        None, description="loss tau of samples_to_threshold; by default what the caller passes, the base's at half time"
    )
    random_labels: RandomLabelSettings | None = Field(None, description="the task-free probe; true for its defaults")
    readiness: ReadinessSettings | None = Field(None, description="gradient readiness; true for its defaults")
    seed: int = Field(0, description="of the fresh adapter and of the training rows, the same at every checkpoint")

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates, one or several."""
        return self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, content: Any) -> Any:
        if isinstance(content, dict) and "task" in content:
            if "tasks" in content:
                raise ValueError("task and tasks: give tasks alone")
            content = dict(content)
            content["tasks"] = content.pop("task")
        return content

    @field_validator("tasks", mode="before")
    @classmethod
    def _some_tasks(cls, asked: Any) -> Any:
        if isinstance(asked, int) and not isinstance(asked, bool):
            if not 1 <= asked <= len(FUTURE_TASKS):
                raise ValueError(f"{asked}: there are {len(FUTURE_TASKS)} future tasks, {', '.join(FUTURE_TASKS)}")
            return FUTURE_TASKS[:asked]
        return (asked,) if isinstance(asked, str) else asked

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        for name in tasks:
            if name not in FUTURE_TASKS:
                known = ", ".join(FUTURE_TASKS)
                raise ValueError(f'no future task is called "{name}"; there are {known}{nearest(name, FUTURE_TASKS)}')
        if len(set(tasks)) < len(tasks):
            raise ValueError("the same task twice")
        return tasks

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _positive_rates(cls, given: Any) -> float | tuple[float, ...]:
        try:
            rates = tuple(float(rate) for rate in (given if isinstance(given, list | tuple) else [given]))
        except (TypeError, ValueError):
            rates = ()
        if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
            raise ValueError(f"{given!r}: give one number above 0, or a list of different ones")
        return rates if isinstance(given, list | tuple) else rates[0]

    @field_validator("random_labels", "readiness", mode="before")
    @classmethod
    def _switched(cls, given: Any) -> Any:
        return ({} if given else None) if isinstance(given, bool) else given

    @model_validator(mode="after")
    def _something_to_learn(self) -> PlasticitySettings:
        if not self.tasks and self.random_labels is None:
            raise ValueError("tasks: none, and no random_labels: there is nothing to learn; name a task")
        return self
