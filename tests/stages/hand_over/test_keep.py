"""Adapters kept inside a stage are those of their step, and keeping them changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from limberlm.stages.hand_over.keep import kept_steps, save_adapter
from limberlm.stages.kind import TrainerKind
from limberlm.stages.trainers import TRAINERS
from tests.stages.runs import ADAPTER, load, run_stage

EACH = pytest.mark.parametrize(
    "trainer", [pytest.param(name, marks=[] if name == "sft" else pytest.mark.slow) for name in TRAINERS]
)
STEPS = [1, 2, 4]  # three of four steps, log-spaced
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


class Reader(TrainerCallback):
    """Reads the model's logits after every step."""

    def __init__(self) -> None:
        self.logits: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.logits[state.global_step] = model.eval()(input_ids=IDS).logits
        model.train()


@dataclass(frozen=True)
class Watched(TrainerKind):
    """A kind whose trainer has a reader beside our own callbacks."""

    reader: Reader = field(default_factory=Reader)

    def trainer_class(self) -> Any:
        def build(*, callbacks: list[Any], **settings: Any) -> Any:
            return super(Watched, self).trainer_class()(callbacks=[*callbacks, self.reader], **settings)

        return build


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@EACH
def test_merging_a_kept_adapter_gives_the_model_of_its_step(
    tiny_model_folder: Path, tmp_path: Path, trainer: str
) -> None:
    kind = Watched(**{each.name: getattr(TRAINERS[trainer], each.name) for each in fields(TrainerKind)})
    run_stage(tiny_model_folder, tmp_path / "adapter", trainer, kind=kind, max_steps=4, checkpoints=3)
    assert kept_steps(tmp_path) == STEPS
    read = kind.reader.logits
    for step in STEPS:
        merged = load(tiny_model_folder, [tmp_path / "checkpoints" / f"step-{step:06d}"])
        with torch.no_grad():
            torch.testing.assert_close(merged(input_ids=IDS).logits, read[step], rtol=1e-4, atol=1e-4)
    assert files(tmp_path / "checkpoints" / "step-000004") == files(tmp_path / "adapter")
    if trainer != "grpo":  # whose rewards are all 0 on an untrained model
        assert (read[1] - read[4]).abs().max() > 0.01


@EACH
def test_keeping_checkpoints_changes_nothing_in_the_training(
    tiny_model_folder: Path, tmp_path: Path, trainer: str
) -> None:
    runs = {}
    for count in (0, 4):
        out = tmp_path / str(count) / "adapter"
        runs[count] = run_stage(tiny_model_folder, out, trainer, max_steps=3, checkpoints=count)
    assert files(tmp_path / "0" / "adapter") == files(tmp_path / "4" / "adapter")
    assert runs[0].training.equals(runs[4].training)
    assert kept_steps(tmp_path / "0") == []
    assert kept_steps(tmp_path / "4") == [1, 2, 3]


def test_a_kept_adapter_is_float32_and_a_card_and_nothing_else(tiny_model_folder: Path, tmp_path: Path) -> None:
    run_stage(tiny_model_folder, tmp_path / "adapter", max_steps=2, checkpoints=1, bf16=True)
    kept = tmp_path / "checkpoints" / "step-000002"
    assert sorted(files(kept)) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {tensor.dtype for tensor in load_file(kept / "adapter_model.safetensors").values()} == {torch.float32}
    assert json.loads((kept / "adapter_config.json").read_text())["base_model_name_or_path"] == "the base"


def test_saving_leaves_the_model_as_it_is(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = get_peft_model(load(tiny_model_folder), ADAPTER.lora()).bfloat16()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_adapter(model, tmp_path / "adapter", "the base")
    after = model.state_dict()
    assert all(
        after[name].dtype == tensor.dtype and torch.equal(after[name], tensor) for name, tensor in before.items()
    )
    assert {t.dtype for t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()} == {torch.float32}
