"""What decides a mixture, apart from its rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from limberlm.interventions.replaying.mix import By
from limberlm.interventions.replaying.rows import SERVES, TEXTS
from limberlm.interventions.settings import InterventionSettings

ROWS = 1024
"""How many rows a pool is made of, unless told otherwise (our choice)."""


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


def refusal(settings: ReplaySettings, trainer: str) -> str | None:
    """Why a trainer cannot be served, known before anything is trained; None if it can.

    >>> refusal(ReplaySettings(ratio=0.1, pool="generic"), "dpo")
    'pool: generic has texts, and the dpo trainer reads preference pairs; use earlier_stages or a file of such rows'
    """
    if settings.ratio and settings.pool in ("generic", "self") and SERVES[trainer] != TEXTS:
        return (
            f"pool: {settings.pool} has {TEXTS}, and the {trainer} trainer reads {SERVES[trainer]}; use earlier_stages "
            "or a file of such rows"
        )
    return None
