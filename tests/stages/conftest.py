"""A short supervised stage on the tiny model, trained once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from limberlm.stages import StageRun
from limberlm.stages.sft import SFT
from tests.stages.runs import Opened, load, run_stage


@dataclass(frozen=True)
class Trained:
    """A finished stage: its adapter, its run, the model it was trained in and the weights it started from."""

    adapter: Path
    run: StageRun
    model: LlamaForCausalLM
    before: dict[str, torch.Tensor]
    seen: list[tuple[int, int, float]]


@pytest.fixture(scope="session")
def sft(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Thirty steps of supervised fine-tuning."""
    adapter = tmp_path_factory.mktemp("sft") / "adapter"
    kind = Opened.of(SFT)
    seen: list[tuple[int, int, float]] = []
    run = run_stage(
        tiny_model_folder,
        adapter,
        kind=kind,
        progress=lambda *what: seen.append(what),
        max_steps=30,
        per_device_train_batch_size=8,
    )
    model = kind.trainers[0].model.get_base_model()
    return Trained(adapter, run, model, load(tiny_model_folder).state_dict(), seen)
