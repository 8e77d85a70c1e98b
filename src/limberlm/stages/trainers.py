"""The trainers that a stage may have, by their names in a study file."""

from __future__ import annotations

from limberlm.stages.dpo import DPO
from limberlm.stages.grpo import GRPO
from limberlm.stages.kind import TrainerKind
from limberlm.stages.kto import KTO
from limberlm.stages.sft import SFT

TRAINERS: dict[str, TrainerKind] = {kind.name: kind for kind in (SFT, DPO, KTO, GRPO)}
