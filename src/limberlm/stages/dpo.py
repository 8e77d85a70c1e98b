"""Direct preference optimization, by TRL's DPOTrainer.

The merged model is in memory and only the fresh adapter is new, so TRL's reference is the same model with the adapter
off: the stage's start. A reference reloaded from the path in `model.config` would be an older model, and nothing would
say so; the first-step loss does.
"""

from __future__ import annotations

import math
from typing import Any

from limberlm.stages.kind import TrainerKind


def first_loss(config: Any) -> float | None:
    """The DPO loss when policy and reference agree: ln 2 (sigmoid), 1 (hinge), 1/(4 beta^2) (IPO), times its weight.

    None where it is not known: for a sum of losses, other losses, and WPO's weighting by likelihood.
    """
    losses: list[str] = config.loss_type
    known = {"sigmoid": math.log(2), "hinge": 1.0, "ipo": 1 / (4 * config.beta**2) if config.beta else None}
    value = known.get(losses[0]) if len(losses) == 1 and not config.use_weighting else None
    return None if value is None else value * (config.loss_weights or [1.0])[0]


def _first_step(config: Any) -> dict[str, float]:
    loss = first_loss(config)
    return {} if loss is None else {"loss": loss}


DPO = TrainerKind("dpo", trainer="DPOTrainer", config="DPOConfig", first_step=_first_step)
