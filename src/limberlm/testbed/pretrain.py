"""Train the testbed's base model from nothing, keeping log-spaced checkpoints."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
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
from transformers.trainer import TRAINER_STATE_NAME

from limberlm.errors import UserError, nearest
from limberlm.files import file_digest, plain_name, remove_drafts, whole_file, whole_folder, write_text
from limberlm.formats import FIELD, FORMATS
from limberlm.testbed import SKILLS
from limberlm.testbed.corpus import tokenizer_texts, windows
from limberlm.testbed.tokenizer import tokenizer_digest, train_tokenizer

MODEL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)
MOST_REPEATS = 10_000
RESUME_EVERY = 100  # steps between the trainer's own checkpoints, which an interrupted run goes on from

Progress = Callable[[int, int, float], None]  # step, steps, loss


class PretrainSettings(BaseModel):
    """Everything that determines the base. The defaults are those of the shipped one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hidden_size: int = Field(192, ge=32, le=2**14, multiple_of=32)
    layers: int = Field(6, ge=1, le=1000)
    intermediate_size: int = Field(512, ge=32, le=2**17)
    vocab_size: int = Field(1024, ge=512, le=2**16)
    steps: int = Field(1500, ge=1, le=10**7)
    batch_size: int = Field(32, ge=1, le=10**5)
    window: int = Field(256, ge=32, le=512)
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(60, ge=0, le=10**7)
    weight_decay: float = Field(0.1, ge=0)
    mix: dict[str, float] = Field(
        {"instructions": 0.10, "arithmetic": 0.09, "refusals": 0.02, "programs": 0.03, "long_arithmetic": 0.04},
        description="share of the windows of each skill; prose has the rest",
    )
    repeats: dict[int, float] = Field(
        {1: 0.30, 2: 0.25, 4: 0.22, 8: 0.15, 16: 0.08},
        description="share of the prose windows that are read so many times",
        min_length=1,
    )
    checkpoints: int = Field(40, ge=1, le=10**5)
    precision: str = Field("bf16", pattern="^(fp32|bf16)$")
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _shares(self) -> PretrainSettings:
        if unknown := [name for name in self.mix if name not in SKILLS]:
            raise ValueError(f"mix: no such skill: {unknown[0]}{nearest(unknown[0], SKILLS)}")
        if min(self.mix.values(), default=0) < 0 or sum(self.mix.values()) > 1:
            raise ValueError(f"mix: shares must not be negative, nor sum to more than 1; these sum to {self.mix}")
        if not 1 <= min(self.repeats) <= max(self.repeats) <= MOST_REPEATS or min(self.repeats.values()) <= 0:
            raise ValueError(f"repeats: times of 1 to {MOST_REPEATS} with shares above 0 (got {self.repeats})")
        return self


def log_spaced(steps: int, count: int) -> list[int]:
    """At most `count` distinct step numbers from 1 to `steps`, evenly spaced on a log scale, both ends included.

    >>> log_spaced(1000, 4)
    [1, 10, 100, 1000]
    """
    if count == 1:
        return [steps]
    return sorted({round(math.exp(math.log(steps) * index / (count - 1))) for index in range(count)})


def kept_steps(settings: PretrainSettings) -> list[int]:
    """The steps whose checkpoints are kept: the untrained start, and log-spaced ones.

    Not step 1 of a warmup, whose learning rate is 0: it would be the start again.
    """
    spaced = log_spaced(settings.steps, settings.checkpoints)
    idle = settings.warmup_steps > 0 and settings.steps > 1
    return [0, *(step for step in spaced if step > 1 or not idle)]


class _Windows(Dataset[dict[str, Tensor]]):
    """Rows of a [count, length] array as language-modelling examples."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


class _Keeper(TrainerCallback):
    """Saves log-spaced checkpoints, the start among them, and reports the loss."""

    def __init__(self, out: Path, keep: list[int], tokenizer: PreTrainedTokenizerFast, progress: Progress) -> None:
        self.out, self.keep, self.tokenizer, self.progress = out, set(keep), tokenizer, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._save(state.global_step, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._save(state.global_step, model)
        control.should_log |= state.global_step == state.max_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.progress(state.global_step, state.max_steps, float(logs["loss"]))

    def _save(self, step: int, model: Any) -> None:
        if step in self.keep:
            with whole_folder(checkpoint_folder(self.out, step)) as draft:
                model.save_pretrained(draft)
                self.tokenizer.save_pretrained(draft)


def checkpoint_folder(out: Path, step: int) -> Path:
    """Where the checkpoint of a step is kept."""
    return out / f"step-{step:06d}"


def pretrain(settings: PretrainSettings, out: Path, progress: Progress = lambda step, steps, loss: None) -> Path:
    """Train tokenizer and model; returns the folder of the last checkpoint.

    Interrupted, it goes on from the last hundred steps when called again with the same settings, to the same bytes.

    Writes `out/step-NNNNNN/` (a model folder each, the untrained start included), `out/settings.json`,
    `out/corpus.npy` ([windows, length] uint16: what the model reads, in order) with `out/corpus.json`,
    `out/series.yaml` (for `limber trace`), `out/loss.json` (mean loss in nats per token since the entry before) and,
    last, `out/digests.json` (of the last checkpoint's files).

    Raises:
        UserError: the folder cannot be written, or another pretraining is at work in it.
    """
    with _alone(out):
        return _pretrain(settings, out, progress)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The folder, for one process at a time; left with what is whole."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY)  # locked itself: a file of ours in it would be one too many
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another pretraining is at work here; wait for it to end") from None
        remove_drafts(out)
        yield
    finally:
        os.close(folder)


def _pretrain(settings: PretrainSettings, out: Path, progress: Progress) -> Path:
    write_text(out / "settings.json", settings.model_dump_json(indent=2) + "\n")
    tokenizer = train_tokenizer(tokenizer_texts(settings.mix), settings.vocab_size)
    rows = windows(
        tokenizer, settings.steps * settings.batch_size, settings.window, settings.mix, settings.repeats, settings.seed
    )
    _write_corpus(rows, tokenizer, out)
    name = plain_name(out.resolve().name, "pretraining")
    write_text(out / "series.yaml", yaml.safe_dump(series(settings, name), sort_keys=False))
    set_seed(settings.seed)
    model = LlamaForCausalLM(model_config(settings, tokenizer))
    scratch = out / "trainer"
    trainer = Trainer(
        model=model,
        args=_arguments(settings, scratch),
        train_dataset=_Windows(rows),
        callbacks=[_Keeper(out, kept_steps(settings), tokenizer, progress)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_whole(scratch))
    curve = [{"step": entry["step"], "loss": entry["loss"]} for entry in trainer.state.log_history if "loss" in entry]
    write_text(out / "loss.json", json.dumps(curve) + "\n")
    shutil.rmtree(scratch, ignore_errors=True)
    last = checkpoint_folder(out, settings.steps)
    write_text(out / "digests.json", json.dumps(folder_digests(last), indent=2) + "\n")
    return last


def _last_whole(scratch: Path) -> str | None:
    """The last of the trainer's own checkpoints that it finished: its state is what it writes last."""
    for folder in sorted(scratch.glob("checkpoint-*"), key=lambda folder: -int(folder.name.rpartition("-")[2])):
        with suppress(OSError, ValueError):
            json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            return str(folder)
        shutil.rmtree(folder)
    return None


def series(settings: PretrainSettings, name: str) -> Mapping[str, Any]:
    """The series file of a pretraining's checkpoints, relative to their folder."""
    return {
        "name": name,
        "checkpoints": [
            {
                "path": "step-*",
                "step": "from_name",
                "tokens_per_step": settings.batch_size * settings.window,
                "stage": "pretraining",
            }
        ],
        "probe": "testbed",
        "x": "tokens",
        "phases": {"warmup_end": settings.warmup_steps},
        "memorization": {"corpus": "corpus.npy"},
    }


def _write_corpus(rows: np.ndarray, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    with whole_file(out / "corpus.npy") as draft, draft.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    record = {
        FIELD: FORMATS["corpus"],
        "tokenizer": tokenizer_digest(tokenizer),
        "rows": rows.shape[0],
        "length": rows.shape[1],
        "vocab_size": len(tokenizer),
    }
    write_text(out / "corpus.json", json.dumps(record, indent=2) + "\n")


def folder_digests(folder: Path) -> dict[str, str]:
    """BLAKE2b (128 bits, hexadecimal) of each model and tokenizer file of a checkpoint."""
    files = sorted(path for path in folder.iterdir() if path.name in MODEL_FILES)
    return {path.name: file_digest(path) for path in files}


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


def _arguments(settings: PretrainSettings, scratch: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        bf16=settings.precision == "bf16",
        logging_steps=10,
        save_steps=RESUME_EVERY,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
    )
