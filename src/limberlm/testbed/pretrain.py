"""Train the testbed's base model from nothing, keeping log-spaced checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from limberlm.testbed.corpus import tokenizer_texts, windows
from limberlm.testbed.tokenizer import train_tokenizer

MODEL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)

Progress = Callable[[int, int, float], None]  # step, steps, loss


class PretrainSettings(BaseModel):
    """Everything that determines the base. The defaults are those of the shipped one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int = Field(192, ge=32, multiple_of=32)
    layers: int = Field(6, ge=1)
    intermediate_size: int = Field(512, ge=32)
    vocab_size: int = Field(1024, ge=512)
    steps: int = Field(1200, ge=1)
    batch_size: int = Field(32, ge=1)
    window: int = Field(256, ge=32, le=512)
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.1, ge=0)
    mix: dict[str, float] = {"instructions": 0.12, "arithmetic": 0.06}
    checkpoints: int = Field(24, ge=1)
    precision: str = Field("bf16", pattern="^(fp32|bf16)$")
    seed: int = 0


def log_spaced(steps: int, count: int) -> list[int]:
    """At most `count` distinct step numbers from 1 to `steps`, evenly spaced on a log scale, both ends included.

    >>> log_spaced(1000, 4)
    [1, 10, 100, 1000]
    """
    if count == 1:
        return [steps]
    return sorted({round(math.exp(math.log(steps) * index / (count - 1))) for index in range(count)})


class _Windows(Dataset[dict[str, Tensor]]):
    """Rows of a [count, length] tensor as language-modelling examples."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class _Keeper(TrainerCallback):
    """Saves log-spaced checkpoints and records the loss curve."""

    def __init__(self, out: Path, keep: list[int], tokenizer: PreTrainedTokenizerFast, progress: Progress) -> None:
        self.out, self.keep, self.tokenizer, self.progress = out, set(keep), tokenizer, progress
        self.curve: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step in self.keep:
            folder = self.out / f"step-{state.global_step:06d}"
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.curve.append({"step": state.global_step, "loss": float(logs["loss"])})
            self.progress(state.global_step, state.max_steps, float(logs["loss"]))


def pretrain(settings: PretrainSettings, out: Path, progress: Progress = lambda step, steps, loss: None) -> Path:
    """Train tokenizer and model; returns the folder of the last checkpoint.

    Writes `out/step-NNNNNN/` (a model folder each), `out/settings.json`, `out/loss.json` (mean loss in nats per token
    over each interval of 10 steps) and `out/digests.json` (of the last checkpoint's files).
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n")
    tokenizer = train_tokenizer(tokenizer_texts(settings.mix, settings.seed), settings.vocab_size)
    rows = windows(tokenizer, settings.steps * settings.batch_size, settings.window, settings.mix, settings.seed)
    set_seed(settings.seed)
    model = LlamaForCausalLM(model_config(settings, tokenizer))
    keeper = _Keeper(out, log_spaced(settings.steps, settings.checkpoints), tokenizer, progress)
    trainer = Trainer(
        model=model,
        args=_arguments(settings, out),
        train_dataset=_Windows(rows),
        callbacks=[keeper],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (out / "loss.json").write_text(json.dumps(keeper.curve) + "\n")
    last = out / f"step-{settings.steps:06d}"
    (out / "digests.json").write_text(json.dumps(folder_digests(last), indent=2) + "\n")
    return last


def folder_digests(folder: Path) -> dict[str, str]:
    """BLAKE2b (128 bits, hexadecimal) of each model and tokenizer file of a checkpoint."""
    files = sorted(path for path in folder.iterdir() if path.name in MODEL_FILES)
    return {path.name: blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in files}


def model_config(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A small Llama with tied embeddings and heads of 32."""
    return LlamaConfig(
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.hidden_size // 32,
        num_key_value_heads=settings.hidden_size // 32,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _arguments(settings: PretrainSettings, out: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out / "trainer"),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        bf16=settings.precision == "bf16",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )
