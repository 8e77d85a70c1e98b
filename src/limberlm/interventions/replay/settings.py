"""What decides a mixture, apart from its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from limberlm.interventions.replay.mix import By
from limberlm.interventions.replay.pools import ROWS
from limberlm.interventions.settings import InterventionSettings


class ReplaySettings(InterventionSettings):
    """`replay` in a study file."""

    paths: ClassVar[Mapping[str, tuple[str, ...]]] = {"pool": ("generic", "earlier_stages", "self")}

    ratio: float = Field(ge=0, lt=1, description="the replayed share; 0 leaves the stage's rows as they are")
    pool: str = Field(
        "earlier_stages",
        min_length=1,
        description="`generic`, `earlier_stages`, `self`, or the path of a JSONL or Parquet file",
    )
    by: By = Field("tokens", description="what the share is of: `tokens` or `rows`")
    match_lengths: bool = Field(True, description="draw pool rows as long as the rows whose place they take")
    rows: int = Field(ROWS, ge=1, description="how many rows a pool of `generic`, `earlier_stages` or `self` has")
