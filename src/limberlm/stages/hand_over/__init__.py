"""How what a stage left becomes the next one's start: by which policy, verified how, and kept where."""

from __future__ import annotations

from limberlm.observe.updates.changes import HandOver
from limberlm.stages.hand_over.policies import (
    HandOverReport,
    Left,
    Start,
    checkpoint,
    ingredients,
    merge_adapters,
    stage_start,
    unmerged,
)

__all__ = [
    "HandOver",
    "HandOverReport",
    "Left",
    "Start",
    "checkpoint",
    "ingredients",
    "merge_adapters",
    "stage_start",
    "unmerged",
]
