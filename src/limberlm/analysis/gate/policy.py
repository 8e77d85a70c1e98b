"""What a gate asks of a candidate: the criteria, and how sure it must be of all of them together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from limberlm.errors import UserError, nearest
from limberlm.geometry import CATALOG
from limberlm.observe.table.geometry import headline_site
from limberlm.problems import first_problem
from limberlm.settings_file import parse_settings, read_settings

Harmful = Literal["up", "down", "both"]
DEFAULT = "default policy"
_PERCENT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")
_WORSE: dict[str, Harmful] = {
    "accuracy": "down",
    "score": "down",
    "correct": "down",
    "loss": "up",
    "nll": "up",
    "aulc": "up",
}


def _margin(given: Any) -> Any:
    """A positive number, or a percentage as text."""
    percent = _PERCENT.fullmatch(given) if isinstance(given, str) else None
    amount = float(percent[1]) if percent else given
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < math.inf:
        raise ValueError(f"{given!r} is neither a number above 0 nor a percentage such as 5 %")
    return given if percent else float(amount)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Criterion(_Settings):
    """One thing that must not get worse by more than its margin: a metric of geometry, or an outcome."""

    metric: str | None = Field(None, description="a metric of the catalog, or `outcome`")
    site: str | None = Field(None, description="metric: where it is read; the 50-85 % depth band, or the logits")
    convention: str | None = Field(None, description="metric: how states are prepared; the metric's first")
    outcome: str | None = Field(None, description="an outcome, such as accuracy or loss")
    task: str | None = Field(None, description="outcome: the task it is of")
    split: str | None = Field(None, description="outcome: the split of the task; in_domain")
    step: int | None = Field(None, description="outcome: the step, for what is measured at several")
    harmful: Harmful | None = Field(None, description="which way is worse; the catalog's, or both")
    margin: Annotated[float | str, BeforeValidator(_margin)] = Field(description="a number, or a percentage")

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str | None) -> str | None:
        if metric is not None and metric not in CATALOG:
            raise ValueError(f'no such metric: "{metric}"{nearest(metric, CATALOG)}; `limber metrics` lists them')
        if metric is not None and not CATALOG[metric].has_interval:
            raise ValueError(f'"{metric}" has no interval, without which nothing can be decided; choose another metric')
        return metric

    @model_validator(mode="after")
    def _fields_fit(self) -> Criterion:
        if (self.metric is None) == (self.outcome is None):
            raise ValueError("give either a metric or an outcome")
        if self.outcome is not None and self.task is None:
            raise ValueError(f"outcome: {self.outcome} without a task: add `task:`")
        kind, others = ("metric", "task split step") if self.metric else ("outcome", "site convention")
        for name in others.split():
            if getattr(self, name) is not None:
                raise ValueError(f"{kind} and {name} do not go together: remove one")
        return self

    @property
    def name(self) -> str:
        """What it is called in the verdict: no two of a policy are called alike.

        >>> Criterion(metric="effective_rank", margin="5 %").name
        'effective_rank, band, rms'
        """
        parts = self.read_at if self.metric else (self.outcome, self.task, self.split_read, self.step)
        return ", ".join(str(part) for part in parts if part is not None)

    @property
    def read_at(self) -> tuple[str, str, str]:
        """Of a metric: its name, site and convention."""
        record = CATALOG[str(self.metric)]
        return record.name, self.site or headline_site(record), self.convention or record.conventions[0]

    @property
    def split_read(self) -> str:
        """Of an outcome: its split."""
        return self.split or "in_domain"

    @property
    def worse(self) -> Harmful:
        """Which way is harmful: as given, else as the catalog or the outcome's name says, else both."""
        if self.harmful is not None:
            return self.harmful
        if self.metric is not None:
            direction = CATALOG[self.metric].direction
            return "both" if direction == "drift" else direction
        return next((_WORSE[word] for word in str(self.outcome).split("_") if word in _WORSE), "both")

    @cached_property
    def share(self) -> float | None:
        """The margin as a share of the baseline's value; None for an absolute one."""
        return float(self.margin.strip().rstrip("% ")) / 100 if isinstance(self.margin, str) else None


class Policy(_Settings):
    """All criteria of a gate, and the confidence that no verdict among them is by chance."""

    confidence: float = Field(0.95, ge=0.5, lt=1, description="of all criteria together")
    criteria: tuple[Criterion, ...]

    @field_validator("criteria")
    @classmethod
    def _several(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        if not criteria:
            raise ValueError("none: a gate that asks for nothing would pass everything; add one")
        names = [criterion.name for criterion in criteria]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is there twice; remove one")
        return criteria

    @property
    def level(self) -> float:
        """The confidence of one criterion's interval: 1 - alpha / C (Bonferroni)."""
        return 1 - (1 - self.confidence) / len(self.criteria)


def policy_of(given: Policy | Mapping[str, Any] | str | Path | None) -> Policy:
    """A policy from a YAML file, from a mapping, or the default one for None.

    Raises:
        UserError: the file cannot be read; or the first setting that is wrong, by file and name.
    """
    if isinstance(given, Policy):
        return given
    if given is None:
        content, where = parse_settings(example(), DEFAULT, "policy"), DEFAULT
    elif isinstance(given, Mapping):
        content, where = dict(given), "policy"
    else:
        content, where = read_settings(Path(given), "policy file"), str(given)
    try:
        return Policy.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, Policy)}") from error


def example() -> str:
    """The default policy as YAML, with comments."""
    return (files("limberlm.analysis.gate") / "default.yaml").read_text(encoding="utf-8")
