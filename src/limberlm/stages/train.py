"""Train one stage through TRL's own trainer and save its adapter, unmerged, in float32."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from limberlm.errors import NodeFailed, UserError
from limberlm.stages.adapter import AdapterSettings
from limberlm.stages.data import StageData
from limberlm.stages.dpo import DPO
from limberlm.stages.kind import TrainerKind
from limberlm.stages.sft import SFT

TRAINERS: dict[str, TrainerKind] = {kind.name: kind for kind in (SFT, DPO)}

Progress = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True)
class StageRun:
    """What a trained stage leaves: one row per logged step, and the loss of its first step."""

    training: pd.DataFrame
    first_loss: float


class _Watch(TrainerCallback):
    """Reports progress, and stops a run whose loss is not finite or does not start where it must."""

    def __init__(self, expected: float | None, tolerance: float, progress: Progress) -> None:
        self.expected, self.tolerance, self.progress = expected, tolerance, progress

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise NodeFailed(
                f"the loss is {loss} at step {state.global_step}: lower the learning rate or check the data"
            )
        if state.global_step == 1 and self.expected is not None and abs(loss - self.expected) > self.tolerance:
            raise NodeFailed(
                f"the first step's loss is {loss:.6f} where an untouched policy gives {self.expected:.6f}: "
                "the reference model is not the stage's start"
            )
        self.progress(state.global_step, state.max_steps, loss)


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
    progress: Progress = lambda step, steps, loss: None,
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
        progress: called after every step.

    Raises:
        UserError: TRL or PEFT refuses the settings or the rows.
        NodeFailed: the loss is not finite, or a preference stage does not start from its reference.

    """
    watch = _Watch(kind.first_loss(config), 1e-2 if config.bf16 or config.fp16 else 1e-4, progress)
    try:
        trainer = kind.trainer_class()(
            model=start,
            args=config,
            train_dataset=data.dataset(),
            processing_class=tokenizer,
            peft_config=adapter.lora(),
            callbacks=[watch],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{data.source}: {kind.trainer} refuses these settings ({' '.join(str(error).split())})"
        ) from error
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    _save_adapter(trainer.accelerator.unwrap_model(trainer.model), out, base)
    training = _history(trainer.state.log_history)
    return StageRun(training, float(training["loss"].iloc[0]))


def _save_adapter(model: Any, out: Path, base: str) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    card = out / "adapter_config.json"
    settings = json.loads(card.read_text())
    settings["base_model_name_or_path"] = base
    settings["target_modules"] = sorted(settings["target_modules"])  # PEFT writes a set, in the order of the day
    card.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    """The trainer's log as a table of numbers, without wall times, which would differ from run to run."""
    rows = [
        {key: float(value) for key, value in entry.items() if not key.endswith(("runtime", "per_second", "time"))}
        for entry in log
        if "loss" in entry
    ]
    table = pd.DataFrame(rows)
    return table.astype({"step": "int64"})[["step", "loss", *sorted(set(table.columns) - {"step", "loss"})]]
