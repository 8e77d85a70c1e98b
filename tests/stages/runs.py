"""Small real stages: one call trains one; `python -m tests.stages.runs MODEL OUT` trains one of each kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from limberlm.stages import TRAINERS, AdapterSettings, StageRun, load_stage_data, merge_adapters, train_stage
from limberlm.stages.arguments import trainer_config
from limberlm.stages.kind import TrainerKind
from limberlm.stages.train import Progress

DATA = {"sft": "testbed:instructions", "dpo": "testbed:preferences", "grpo": "testbed:arithmetic"}
ARGS: dict[str, dict[str, Any]] = {"grpo": {"num_generations": 4, "max_completion_length": 8}}
ADAPTER = AdapterSettings(r=4, lora_alpha=8)


def load(model: Path, adapters: Sequence[Path] = ()) -> LlamaForCausalLM:
    """A stage's start."""
    return merge_adapters(LlamaForCausalLM.from_pretrained(model, dtype=torch.float32), adapters)


def run_stage(
    model: Path,
    out: Path,
    trainer: str = "sft",
    *,
    adapters: Sequence[Path] = (),
    start: LlamaForCausalLM | None = None,
    kind: TrainerKind | None = None,
    seed: int = 0,
    rows: int = 64,
    adapter: AdapterSettings = ADAPTER,
    data: str | None = None,
    checkpoints: int = 0,
    progress: Progress = lambda step, steps, loss: None,
    **args: Any,
) -> StageRun:
    """Train one stage and leave its adapter in `out`; two steps of four rows unless told otherwise."""
    kind = kind or TRAINERS[trainer]
    settings = {
        "max_steps": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        **ARGS.get(trainer, {}),
        **args,
    }
    return train_stage(
        kind,
        trainer_config(kind, settings, where="stages.x.args", seed=seed, scratch=out.parent / "scratch"),
        load(model, adapters) if start is None else start,
        AutoTokenizer.from_pretrained(model),
        load_stage_data(data or DATA[trainer], trainer, seed=seed, rows=rows),
        adapter,
        out,
        base="the base",
        checkpoints=checkpoints,
        progress=progress,
    )


if __name__ == "__main__":
    for name in TRAINERS:
        run_stage(Path(sys.argv[1]), Path(sys.argv[2]) / name, name)
