"""A stage that several processes train: each takes its part of every batch, and the sums are those of one process.

Accelerate deals whole batches in turn: with a part b/N of the batch b for each of N processes, the rows of an optimiser
step are those of one process. What is computed over a batch and is no sum over its rows cannot be had like this.
"""

from __future__ import annotations

from typing import Any

from limberlm.stages.kind import TrainerKind

BATCH = "per_device_train_batch_size"


def own_part(kind: TrainerKind, args: dict[str, Any], processes: int) -> dict[str, Any]:
    """A stage's arguments as each of so many processes takes them: with its part of the batch.

    Args:
        kind: the stage's trainer.
        args: the stage's own; their batch is that of all processes together.
        processes: a divisor of the batch.

    """
    if processes == 1:
        return args
    return args | {BATCH: int(args.get(BATCH, getattr(kind.config_class(), BATCH))) // processes}


def obstacle(kind: TrainerKind, config: Any, rows: int, processes: int) -> str | None:
    """Why so many processes would not train a stage as one does: a setting and one line about it, or None.

    Args:
        kind: the stage's trainer.
        config: its configuration, as one process has it.
        rows: that the stage trains on.
        processes: two or more.

    """
    from transformers.trainer_pt_utils import AcceleratorConfig

    batch = getattr(config, BATCH)
    if batch % processes:
        return f"{BATCH}: {batch}: {processes} GPUs share a batch; give a multiple of {processes}"
    if config.accelerator_config != AcceleratorConfig():
        return f"accelerator_config: {processes} GPUs would not see the rows that one sees; remove it"
    if config.train_sampling_strategy == "group_by_length":
        return "train_sampling_strategy: group_by_length: several GPUs would see the rows in another order; remove it"
    if config.label_smoothing_factor or not config.average_tokens_across_devices:
        name = "label_smoothing_factor" if config.label_smoothing_factor else "average_tokens_across_devices: false"
        return f"{name}: each GPU would take a mean over its own tokens; remove it, or give the stage one GPU"
    return kind.whole_batch(config) or cut_batch(kind, config, rows, batch)


def cut_batch(kind: TrainerKind, config: Any, rows: int, batch: int) -> str | None:
    """Why the last batch of an epoch would differ from that of one process: it is short, and would be filled up."""
    kept = rows - rows % batch
    never = config.max_steps > 0 and config.max_steps * config.gradient_accumulation_steps * batch <= kept
    dropped = config.dataloader_drop_last or kind.name == "grpo"  # whose batches are always whole
    if not rows % batch or never or dropped:
        return None
    return (
        f"{BATCH}: {batch}: the last batch of {rows} rows has {rows % batch}, which several GPUs would fill up with "
        f"rows of the epoch's start; add dataloader_drop_last: true, or train on {kept} rows"
    )
