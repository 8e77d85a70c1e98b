"""Kahneman-Tversky optimization (2402.01306), by TRL's KTOTrainer: single completions, each labelled good or bad.

As in DPO the reference is the stage's start. TRL estimates the divergence from it on mismatched rows: every prompt of a
batch with its neighbour's completion, paired when the data are prepared. So rows are taken in the order given (they are
shuffled as they are read) and a batch has two of them at least.
"""

from __future__ import annotations

from typing import Any

from limberlm.stages.kind import PAIRS, TrainerKind, reference_contradiction

UNPAIRED_APO = "apo_zero_unpaired"  # the loss that estimates no divergence


def first_step(config: Any) -> dict[str, float]:
    """What the log says of an untouched policy: `kl` 0, and the loss w/2 where both kinds of row weigh w.

    Every row's loss is then w (1 - sigmoid(0)) = w/2, wanted or not. With two weights it depends on the batch.
    """
    known = {"kl": 0.0}
    if config.desirable_weight == config.undesirable_weight:
        known["loss"] = config.desirable_weight / 2
    return known


def contradiction(config: Any) -> str | None:
    """What TRL would find out only after other stages were trained, or not at all."""
    if config.loss_type != UNPAIRED_APO:
        if config.train_sampling_strategy != "sequential":
            return (
                f"train_sampling_strategy: {config.train_sampling_strategy} and loss_type: {config.loss_type}, whose "
                "divergence is estimated from neighbouring rows: use sequential; rows are shuffled as they are read"
            )
        if config.per_device_train_batch_size < 2:
            return (
                f"per_device_train_batch_size: {config.per_device_train_batch_size} and loss_type: {config.loss_type}, "
                "whose divergence is estimated from the other rows of a batch: use 2 or more"
            )
    return reference_contradiction(config)


def whole_batch(config: Any) -> str:
    """The pairs of a prompt and another row's completion are formed within a batch."""
    return f"loss_type: {config.loss_type}: trainer kto pairs the rows of a batch; give the stage one GPU"


KTO = TrainerKind(
    "kto",
    trainer="KTOTrainer",
    config="KTOConfig",
    columns=(("prompt", "completion", "label"), *PAIRS),
    has_reference=lambda config: True,
    first_step=first_step,
    contradiction=contradiction,
    whole_batch=whole_batch,
)
