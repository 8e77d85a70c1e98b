"""How one checkpoint becomes the next: datasets, trainers and the hand-over between stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.stages.data import StageData, load_stage_data
    from limberlm.stages.hand_over import merge_adapters
    from limberlm.stages.settings.adapter import AdapterSettings
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

__getattr__ = lazily(
    __name__,
    {
        "AdapterSettings": "settings.adapter",
        "StageData": "data",
        "load_stage_data": "data",
        "merge_adapters": "hand_over",
        "StageRun": "train",
        "train_stage": "train",
        "TRAINERS": "trainers",
    },
)
