"""Supervised fine-tuning, by TRL's SFTTrainer. Its loss starts wherever the model stands."""

from __future__ import annotations

from limberlm.stages.kind import TrainerKind

SFT = TrainerKind("sft", trainer="SFTTrainer", config="SFTConfig")
