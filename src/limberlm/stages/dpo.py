"""Direct preference optimization, by TRL's DPOTrainer.

The merged model is in memory and only the fresh adapter is new, so TRL's reference is the same model with the adapter
off: the stage's start. A reference reloaded from the path in `model.config` would be an older model, and nothing would
say so; the first-step loss does.
"""

from __future__ import annotations

import math
from typing import Any

from limberlm.errors import nearest
from limberlm.stages.kind import PAIRS, TrainerKind, reference_contradiction

LOSSES = tuple(
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop sft "
    "sigmoid_norm".split()
)
"""TRL's losses by name."""
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")
"""The losses that read `label_smoothing`; the others take it without a word (TRL 1.16)."""
_LN2 = math.log(2)


def first_loss(config: Any) -> float | None:
    """The DPO loss when policy and reference agree, so that every log-ratio is 0: the weighted sum of its losses.

    ln 2 (sigmoid, robust, aot), 1 (hinge, apo), 1/(4 beta^2) (IPO), and so on; at the default of `beta`, 0.1, IPO's is
    25. None where it is not known: the sft loss, and WPO's weighting by likelihood.
    """
    values = [_at_zero(name, config.beta, config.label_smoothing) for name in config.loss_type]
    if config.use_weighting or None in values:
        return None
    weights: list[float] = config.loss_weights or [1.0] * len(values)
    return sum(weight * value for weight, value in zip(weights, values, strict=True) if value is not None)


def _at_zero(loss: str, beta: float, smoothing: float) -> float | None:
    if loss in ("ipo", "sppo_hard"):
        return None if not beta else 1 / ((4 if loss == "ipo" else 2) * beta**2)
    if loss == "exo_pair":  # the divergence of (1/2, 1/2) from (1 - smoothing, smoothing)
        return -_LN2 - (math.log(1 - smoothing) + math.log(smoothing)) / 2 if 0 < smoothing < 1 else None
    if loss == "robust" and smoothing == 0.5:
        return None
    known = {"hinge": 1.0, "apo_zero": 1.0, "apo_down": 1.0, "nca_pair": 2 * _LN2, "bco_pair": 2 * _LN2}
    known |= {"discopop": (_LN2 + 1) / 2} | dict.fromkeys(("sigmoid", "sigmoid_norm", "robust"), _LN2)
    return (known | dict.fromkeys(("aot", "aot_unpaired"), _LN2)).get(loss)


def _first_step(config: Any) -> dict[str, float]:
    loss = first_loss(config)
    return {} if loss is None else {"loss": loss}


def contradiction(config: Any) -> str | None:
    """What TRL would find out only after other stages were trained, or not at all."""
    for name in config.loss_type:
        if name not in LOSSES:
            return f"loss_type: no such loss: {name}{nearest(name, LOSSES)}; there are {', '.join(LOSSES)}"
    if config.label_smoothing and not set(config.loss_type) & set(SMOOTHED):
        return (
            f"label_smoothing: {config.label_smoothing:g} and loss_type: {', '.join(config.loss_type)}, which takes no "
            f"notice of it; {', '.join(SMOOTHED)} do"
        )
    if "exo_pair" in config.loss_type and not config.label_smoothing:
        return "loss_type: exo_pair and label_smoothing: 0: it needs some, such as 0.001"
    return reference_contradiction(config)


def whole_batch(config: Any) -> str | None:
    """Losses that sort a batch, or take one mean over all its tokens (TRL 1.16)."""
    found = [name for name in config.loss_type if name in ("aot", "aot_unpaired", "sft")]
    return f"loss_type: {found[0]}: its loss is taken over a whole batch; give the stage one GPU" if found else None


DPO = TrainerKind(
    "dpo",
    trainer="DPOTrainer",
    config="DPOConfig",
    columns=PAIRS,
    has_reference=lambda config: True,
    first_step=_first_step,
    contradiction=contradiction,
    whole_batch=whole_batch,
)
