"""A tiny training with checkpoints on disk: real models whose weights move from step to step, and texts to read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from limberlm.testbed.prose import passages

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PROBE_ROWS = 96


def moved(model_folder: Path, amount: float) -> LlamaForCausalLM:
    """The model with every weight moved by the same noise, `amount` of it."""
    model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += amount * torch.randn(parameter.shape, generator=generator)
    return model


def write_checkpoint(model_folder: Path, folder: Path, amount: float, *, tokenizer: bool = True) -> Path:
    """A checkpoint as a trainer leaves it."""
    moved(model_folder, amount).save_pretrained(folder)
    for name in TOKENIZER_FILES if tokenizer else ():
        shutil.copy(model_folder / name, folder)
    return folder


def write_run(model_folder: Path, run: Path, steps: Sequence[int], name: str = "step-{:06d}") -> Path:
    """A folder of checkpoints; the later, the further from noise."""
    for step in steps:
        write_checkpoint(model_folder, run / name.format(step), 0.1 / (1 + step))
    return run


def write_adapter(model_folder: Path, folder: Path, seed: int, base: str = "somewhere") -> Path:
    """A LoRA adapter that changes what the model says."""
    model = LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    adapted.save_pretrained(folder)
    card = folder / "adapter_config.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"base_model_name_or_path": base}))
    return folder


def write_probe(path: Path, rows: int = PROBE_ROWS) -> Path:
    """Held-out passages, one a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages("in_domain", rows, 120)))
    return path


def write_series(path: Path, checkpoints: Sequence[dict[str, Any]], **settings: Any) -> Path:
    """A series file that reads little: last tokens, and the loss."""
    probe = write_probe(path.parent / "probe.jsonl")
    content = {
        "checkpoints": list(checkpoints),
        "probe": {"path": probe.name, "max_tokens": 24, "min_tokens": 4},
        "outcomes": {"tasks": []},
        "measure": {"conventions": ["last"]},
    }
    path.write_text(yaml.safe_dump({**content, **settings}, sort_keys=False))
    return path
