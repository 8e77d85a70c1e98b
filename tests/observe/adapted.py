"""Real PEFT adapters on tiny models, saved as a user would save them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tests.observe.tiny import tiny

TARGETS = ["q_proj", "down_proj"]


def base_folder(folder: Path, name: str = "llama", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """The tiny model of `tiny`, saved."""
    tiny(name, **changes).to(dtype).save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path, *, model: PreTrainedModel | None = None, seed: int = 1, size: float = 1.0, **settings: Any
) -> Path:
    """An adapter with random factors, B times `size`, saved by PEFT."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS} | settings
    model = model or tiny()
    torch.manual_seed(seed)  # after `tiny`, which sets its own
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, LoraConfig(**config))
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                moved = torch.randn_like(parameter) * (0.1 if "magnitude" in name or "lora_" not in name else 1.0)
                parameter.data = parameter.data + size * moved * (0.2 if "lora_B" in name else 1.0)
        adapted.save_pretrained(folder)
    return folder


def merged(folder: Path, model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights after PEFT itself has loaded and merged the adapter, in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = PeftModel.from_pretrained(model.to(torch.float64), folder).merge_and_unload()
    return {name: value.detach().double() for name, value in done.state_dict().items()}


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change fields of the adapter's configuration."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return folder


def edit_tensors(folder: Path, change: Any) -> Path:
    """Apply `change` to the dictionary of the adapter's tensors."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return folder
