"""The series file: which checkpoints are traced, on what, and what it means where it is silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limberlm.errors import UserError, nearest
from limberlm.files import plain_name
from limberlm.outcomes.diversity import SamplingSettings
from limberlm.problems import first_problem
from limberlm.settings_file import read_settings
from limberlm.testbed import SKILLS

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
TESTBED = "testbed"
WINDOW, WINDOWS = 64, 4096
"""The testbed's probe: so many windows of so many tokens of held-out prose."""
LONGEST = 512
"""Tokens of a probe sequence of other texts, at most."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Entry(_Settings):
    """One line of `checkpoints`: some revisions of a hub repository, some folders, or one of either."""

    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revisions: str | tuple[str, ...] | None = Field(None, description="names, with {a,b} and {first..last/by}")
    match: str | None = Field(None, description="a pattern with * over the names that the hub lists")
    commit: str | None = Field(None, description="what a single revision must point at")
    path: str | None = Field(None, description="a folder, or a pattern with *; `bundled` for the testbed's base")
    step: Annotated[int, Field(ge=0)] | Literal["from_name"] = "from_name"
    tokens: int | None = Field(None, ge=0, description="of a single checkpoint, counted from the start of the series")
    tokens_per_step: int | None = Field(None, ge=1, description="the stage's steps are counted from its own start")
    stage: str = Field("training", pattern=NAME)
    adapter: bool = Field(False, description="the folders hold PEFT adapters, to be merged into the stage's start")
    base: str | None = Field(None, description="the stage's start; by default the end of the stage before")
    merge: tuple[str, ...] = Field((), description="adapters that come between `base` and this one")
    null: bool = Field(False, description="a control: its weights may equal those of another checkpoint")

    @model_validator(mode="after")
    def _one_source(self) -> Entry:
        if (self.hub is None) == (self.path is None):
            raise ValueError("give either hub or path")
        for name in ("revisions", "match", "commit"):
            if self.path is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to hub, and this is a path")
        if self.revisions is not None and self.match is not None:
            raise ValueError("revisions and match both choose; give one of them")
        if not self.adapter and (self.base is not None or self.merge):
            raise ValueError("base and merge belong to adapters; add `adapter: true`")
        if self.merge and self.base is None:
            raise ValueError("merge: adapters are merged into a base; give base too")
        return self


class ProbeSettings(_Settings):
    """What every checkpoint reads."""

    path: str = TESTBED
    max_tokens: int = Field(LONGEST, ge=2, description="of a sequence; longer ones are cut")
    min_tokens: int = Field(32, ge=0, description="texts must have more, before they are cut")
    ends: Literal["natural", "packed"] = Field("natural", description="packed: fixed windows of max_tokens")
    sequences: int | None = Field(None, ge=2, description="at most so many")

    @model_validator(mode="before")
    @classmethod
    def _by_source(cls, given: Any) -> Any:
        content = {"path": given} if isinstance(given, str) else given
        if not isinstance(content, Mapping):
            return content
        if content.get("path", TESTBED) == TESTBED:
            return {"max_tokens": WINDOW, "ends": "packed", "sequences": WINDOWS, **content}
        stream = str(content["path"]).removesuffix(".xz").endswith(".txt")
        return {"ends": "packed", **content} if stream else content


Convention = Literal["last", "rms", "raw"]


class MeasureSettings(_Settings):
    """Which numbers are taken, and where."""

    conventions: tuple[Convention, ...] = Field(("last", "rms"), min_length=1)
    sites: tuple[Annotated[str, Field(pattern=r"^(final_norm|last_block|all|block\.\d+)$")], ...] | None = None
    estimator: Literal["jackknife", "released"] = Field("jackknife", description="released: also as the paper's code")
    blocks: Literal[16] = 16
    alpha_window: tuple[Literal[12], Literal[100]] = (12, 100)
    head_removed: tuple[Literal[1, 2, 8, 32], ...] = (1, 2, 8, 32)
    batch_size: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _sites_have_numbers(self) -> MeasureSettings:
        beyond = [site for site in self.sites or () if site != "final_norm"]
        if set(self.conventions) == {"last"} and beyond:
            raise ValueError(f"sites: {beyond[0]} has no numbers under `last`, which is final_norm's; add rms")
        return self


class PhaseSettings(_Settings):
    """How phases are looked for: see `limberlm.analysis.phases`."""

    min_effect: float = Field(0.05, gt=0)
    level: float = Field(0.05, gt=0, lt=1)
    max_segments: int = Field(5, ge=1)
    min_size: int = Field(3, ge=2)
    warmup_end: float | None = Field(None, ge=0, description="the step, of the first stage, where warmup ends")
    per_stage: bool = True
    resamples: int = Field(199, ge=19)


def _skills(tasks: tuple[str, ...], *more: str) -> tuple[str, ...]:
    known = (*more, *SKILLS)
    for name in tasks:
        if name not in known:
            raise ValueError(f'"{name}" is none of {", ".join(known)}{nearest(name, known)}')
    return tuple(dict.fromkeys(tasks))


class MemorizationSettings(_Settings):
    """How far answers follow the n-grams of the training corpus."""

    corpus: str = Field(description="the token rows that were trained on (.npy), or texts (.txt, .jsonl)")
    tasks: tuple[str, ...] = Field(("spans",), min_length=1, description="spans, and skills of the testbed")
    zero: Literal["floor", "drop", "released"] = Field("floor", description="the rule that leads; all are computed")
    counts: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 4, 8, 16), min_length=1)
    per_count: int = Field(64, ge=1, description="spans of each number of copies")
    held_out: int = Field(128, ge=1, description="spans the corpus lacks")
    prompt: int = Field(24, ge=1)
    target: int = Field(8, ge=1)
    items: int = Field(128, ge=2, le=400, description="questions of each skill")

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        return _skills(tasks, "spans")


class PassAtK(SamplingSettings):
    """How many of `samples` answers must be drawn until one is right."""

    items: int = Field(32, ge=2, le=400, description="questions of each skill")


class OutcomeSettings(_Settings):
    """What each checkpoint can do."""

    loss: bool = Field(True, description="held-out loss on the probe")
    tasks: tuple[str, ...] | None = Field(None, description="testbed skills; by default those of a testbed model")
    items: int = Field(64, ge=2, le=400, description="questions of each skill")
    choices: bool = Field(True, description="multiple choice too")
    pass_at_k: PassAtK | None = None

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if tasks is None else _skills(tasks)


class AblationSettings(_Settings):
    """Accuracy with eigen-directions removed, or with them alone."""

    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 50), min_length=1)
    random: int = Field(5, ge=1)
    items: int = Field(128, ge=2, le=400)


class SeriesSettings(_Settings):
    """A whole series, as written in its YAML file."""

    name: str = Field("series", pattern=NAME)
    checkpoints: tuple[Entry, ...] = Field(min_length=1)
    probe: ProbeSettings = ProbeSettings.model_validate(TESTBED)
    measure: MeasureSettings = MeasureSettings()
    x: Literal["tokens", "step"] | None = Field(None, description="default: tokens where all have them, else step")
    phases: PhaseSettings = PhaseSettings()
    memorization: MemorizationSettings | None = None
    outcomes: OutcomeSettings = OutcomeSettings()
    ablation: AblationSettings | None = None
    tokenizer: str | None = Field(None, description="where no checkpoint brings its own")
    keep: bool = Field(False, description="keep what is downloaded")
    dtype: str = "float32"
    device: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    allow_mixed_width: bool = False
    null: bool = Field(False, description="a control series: weights may be equal")


def read_series_file(path: Path) -> SeriesSettings:
    """Read a series file.

    Raises:
        UserError: unreadable file, a YAML error (with its line), or a setting that is unknown or out of range.
    """
    return series_settings(read_settings(path, "series file"), str(path), plain_name(path.stem, "series"))


def series_settings(content: Mapping[str, Any], where: str, name: str) -> SeriesSettings:
    """Settings from a mapping; `where` starts the error message, `name` is the series' unless it says one.

    Raises:
        UserError: the first setting that is unknown, missing or out of range, by its full name.
    """
    try:
        return SeriesSettings.model_validate(_named({"name": name, **content}))
    except ValidationError as error:
        raise UserError(f"{where}: {first_problem(error, SeriesSettings)}") from None


def _named(value: Any) -> Any:
    """The same with string keys: YAML reads the key `null:` as nothing."""
    if isinstance(value, dict):
        return {"null" if key is None else str(key): _named(inner) for key, inner in value.items()}
    return [_named(inner) for inner in value] if isinstance(value, list) else value
