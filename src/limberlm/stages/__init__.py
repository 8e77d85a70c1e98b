"""How one checkpoint becomes the next: datasets, trainers and the hand-over between stages."""

from __future__ import annotations

from limberlm.stages.adapter import AdapterSettings
from limberlm.stages.data import StageData, load_stage_data
from limberlm.stages.hand_over import merge_adapters
from limberlm.stages.train import StageRun, train_stage
from limberlm.stages.trainers import TRAINERS

__all__ = [
    "TRAINERS",
    "AdapterSettings",
    "StageData",
    "StageRun",
    "load_stage_data",
    "merge_adapters",
    "train_stage",
]
