"""Small real stages: one call trains one; `python -m tests.stages.runs MODEL OUT` trains one of each kind."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from limberlm.stages import TRAINERS, AdapterSettings, StageRun, load_stage_data, merge_adapters, train_stage
from limberlm.stages.hand_over import HandOver, Left
from limberlm.stages.hand_over.keep import FOLDER
from limberlm.stages.kind import TrainerKind
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.train import Progress

DATA = {
    "sft": "testbed:instructions",
    "dpo": "testbed:preferences",
    "kto": "testbed:preferences",
    "grpo": "testbed:arithmetic",
}
FIRST: dict[str, dict[str, float]] = {
    "sft": {},
    "dpo": {"loss": math.log(2)},
    "kto": {"kl": 0.0, "loss": 0.5},
    "grpo": {"kl": 0.0},
}
"""What an untouched policy logs at the first step (GRPO with `beta` above 0); nothing where there is no reference."""
ARGS: dict[str, dict[str, Any]] = {"grpo": {"num_generations": 4, "max_completion_length": 8}}
ADAPTER = AdapterSettings(r=4, lora_alpha=8)


@dataclass(frozen=True)
class Opened(TrainerKind):
    """A kind whose trainers can be looked into: each trainer, and the batches that it computed a loss on."""

    trainers: list[Any] = field(default_factory=list)
    batches: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, kind: TrainerKind) -> Opened:
        return cls(**{each.name: getattr(kind, each.name) for each in fields(TrainerKind)})

    def trainer_class(self) -> Any:
        def build(**settings: Any) -> Any:
            trainer = super(Opened, self).trainer_class()(**settings)
            compute = trainer.compute_loss

            def seen(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
                self.batches.append({name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)})
                return compute(model, inputs, *rest, **more)

            trainer.compute_loss = seen
            self.trainers.append(trainer)
            return trainer

        return build


@dataclass(frozen=True)
class Displaced(TrainerKind):
    """A kind whose policy is not the stage's start any more when training begins."""

    def trainer_class(self) -> Any:
        def build(**settings: Any) -> Any:
            trainer = super(Displaced, self).trainer_class()(**settings)
            train = trainer.train

            def displaced() -> Any:
                for name, parameter in trainer.model.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.1)
                return train()

            trainer.train = displaced
            return trainer

        return build


def load(model: Path, adapters: Sequence[Path] = ()) -> LlamaForCausalLM:
    """A stage's start."""
    return merge_adapters(LlamaForCausalLM.from_pretrained(model, dtype=torch.float32), adapters)


def run_stage(
    model: Path,
    out: Path,
    trainer: str = "sft",
    *,
    adapters: Sequence[Path] = (),
    left: Sequence[Left] | None = None,
    hand_over: HandOver = "merge",
    kind: TrainerKind | None = None,
    seed: int = 0,
    rows: int = 64,
    adapter: AdapterSettings | None = ADAPTER,
    data: str | None = None,
    reward: str | None = None,
    checkpoints: int = 0,
    progress: Progress = lambda step, steps, loss: None,
    **args: Any,
) -> StageRun:
    """Train one stage and leave its adapter, or model, in `out`; two steps of four rows unless told otherwise."""
    kind = kind or TRAINERS[trainer]
    settings = {
        "max_steps": 2,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        **ARGS.get(trainer, {}),
        **args,
    }
    stage = out.with_name(f".{out.name}.stage")
    run = train_stage(
        kind,
        trainer_config(kind, settings, where="stages.x.args", seed=seed, scratch=out.parent / "scratch"),
        model,
        [Left("lora", folder) for folder in adapters] if left is None else left,
        hand_over,
        AutoTokenizer.from_pretrained(model),
        load_stage_data(data or DATA[trainer], trainer, seed=seed, rows=rows, reward=reward),
        adapter,
        stage,
        base_name="the base",
        checkpoints=checkpoints,
        progress=progress,
    )
    run.left.folder.rename(out)
    if checkpoints:
        (stage / FOLDER).rename(out.parent / FOLDER)
    stage.rmdir()  # nothing else was left in it
    return replace(run, left=Left(run.left.kind, out))


def lora(model: Path, out: Path, seed: int, **settings: Any) -> Left:
    """An adapter of random A and B, saved."""
    config = {"r": 3, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    student = get_peft_model(load(model), LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    student.save_pretrained(out)
    return Left("lora", out)


def update(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's s B A by the weight's name, by hand in float64."""
    card = json.loads((folder / "adapter_config.json").read_text())
    scale = card["lora_alpha"] / (card["r"] ** 0.5 if card.get("use_rslora") else card["r"])
    tensors = {
        k.removeprefix("base_model.model."): v.double()
        for k, v in load_file(folder / "adapter_model.safetensors").items()
    }
    return {
        name.replace("lora_A.weight", "weight"): scale * tensors[name.replace("lora_A", "lora_B")] @ a
        for name, a in tensors.items()
        if "lora_A" in name
    }


def logits(model: torch.nn.Module) -> torch.Tensor:
    """A model's logits on fixed tokens."""
    ids = torch.randint(5, 400, (4, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(ids).logits


def relative_rms(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    for name in TRAINERS:
        run_stage(Path(sys.argv[1]), Path(sys.argv[2]) / name, name)
