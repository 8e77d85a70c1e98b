"""Train one stage through TRL's own trainer and save its adapter, unmerged, in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from limberlm.errors import NodeFailed, UserError
from limberlm.stages.adapter import AdapterSettings
from limberlm.stages.data import StageData
from limberlm.stages.dpo import DPO
from limberlm.stages.grpo import GRPO
from limberlm.stages.keep import FOLDER, Keeper, save_adapter
from limberlm.stages.kind import TrainerKind
from limberlm.stages.sft import SFT

TRAINERS: dict[str, TrainerKind] = {kind.name: kind for kind in (SFT, DPO, GRPO)}

Progress = Callable[[int, int, float], None]  # step, steps, the kind's headline quantity


@dataclass(frozen=True)
class StageRun:
    """What a trained stage leaves: one row per logged step, and the loss of its first step.

    `num_tokens` counts the tokens read so far, those of sampled completions included.
    """

    training: pd.DataFrame
    first_loss: float


class _Watch(TrainerCallback):
    """Reports progress, and stops a run whose loss is not finite or does not start where it must."""

    def __init__(self, kind: TrainerKind, config: Any, progress: Progress) -> None:
        self.expected = kind.first_step(config)
        self.tolerance = 1e-2 if config.bf16 or config.fp16 else 1e-4
        self.headline, self.progress = kind.headline, progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise NodeFailed(
                f"the loss is {loss} at step {state.global_step}: lower the learning rate or check the data"
            )
        for name, value in self.expected.items() if state.global_step == 1 else ():
            if abs(logs[name] - value) > self.tolerance:
                raise NodeFailed(
                    f"the first step's {name} is {logs[name]:.6f} where an untouched policy gives {value:.6f}: "
                    "the reference model is not the stage's start"
                )
        self.progress(state.global_step, state.max_steps, float(logs.get(self.headline, math.nan)))


def train_stage(
    kind: TrainerKind,
    config: Any,
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: StageData,
    adapter: AdapterSettings,
    out: Path,
    *,
    base: str,
    checkpoints: int = 0,
    progress: Progress = lambda step, steps, value: None,
) -> StageRun:
    """Train a fresh adapter on `start` and write it to `out`.

    Args:
        kind: the trainer to use.
        config: its configuration, from `trainer_config`.
        start: the stage's start, merged and in memory; its weights are not changed, but LoRA layers are put into it.
        tokenizer: carries the chat template.
        data: the stage's rows.
        adapter: LoRA settings.
        out: the adapter's folder.
        base: what the adapter's card names as its base.
        checkpoints: keep the adapter at so many log-spaced steps, in `checkpoints/step-NNNNNN/` beside `out`.
        progress: called after every step.

    Raises:
        UserError: TRL or PEFT refuses the settings or the rows.
        NodeFailed: the loss is not finite, or a stage does not start from its reference.

    """
    callbacks = [_Watch(kind, config, progress), Keeper(out.parent / FOLDER, checkpoints, base)]
    try:
        trainer = kind.trainer_class()(
            model=start,
            args=config,
            train_dataset=data.dataset(),
            processing_class=tokenizer,
            peft_config=adapter.lora(),
            callbacks=callbacks,
            **kind.extras(data.source),
        )
    except (ValueError, TypeError, KeyError, ImportError, NotImplementedError) as error:
        raise UserError(
            f"{data.source}: {kind.trainer} refuses these settings ({' '.join(str(error).split())})"
        ) from error
    trainer.remove_callback(PrinterCallback)
    _train(trainer)
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), out, base)
    training = _history(trainer.state.log_history)
    return StageRun(training, float(training["loss"].iloc[0]))


def _train(trainer: Any) -> None:
    try:
        trainer.train()
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):
            raise
        raise NodeFailed(
            f"after step {trainer.state.global_step} no completion can be sampled, for the model's probabilities are "
            "not finite: lower the learning rate"
        ) from error


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table of numbers, without wall times, which would differ from run to run."""
    rows = [
        {key: _number(value) for key, value in entry.items() if not key.endswith(("runtime", "per_second", "time"))}
        for entry in log
        if "loss" in entry
    ]
    table = pd.DataFrame(rows)
    if "num_tokens" in table:  # a cumulative count, which GRPO logs only where it samples
        table["num_tokens"] = table["num_tokens"].ffill().astype("int64")
    return table.astype({"step": "int64"})[["step", "loss", *sorted(set(table.columns) - {"step", "loss"})]]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)  # TRL's GRPO logs None for a mean over nothing
