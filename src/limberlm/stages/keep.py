"""Adapters kept on disk: at a stage's end, and at log-spaced steps inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from limberlm.testbed.pretrain import checkpoint_folder, log_spaced

FOLDER = "checkpoints"  # beside the stage's final `adapter`


class Keeper(TrainerCallback):
    """Saves the adapter at `count` log-spaced steps, 1 and the last among them. It changes nothing in the training."""

    def __init__(self, folder: Path, count: int, base: str) -> None:
        self.folder, self.count, self.base = folder, count, base

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Save, if it is one of the steps."""
        if self.count and state.global_step in log_spaced(state.max_steps, self.count):
            save_adapter(model, checkpoint_folder(self.folder, state.global_step), self.base)


def save_adapter(model: Any, out: Path, base: str) -> None:
    """Write a PEFT model's adapter as float32 safetensors and a card, the same bytes for the same weights.

    Args:
        model: the PEFT model; it stays as it is.
        out: the adapter's folder.
        base: what the card names as the base.

    """
    weights = {name: parameter.float() for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.save_pretrained(out, state_dict=weights, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    card = out / "adapter_config.json"
    settings = json.loads(card.read_text())
    settings["base_model_name_or_path"] = base
    settings["target_modules"] = sorted(settings["target_modules"])  # PEFT writes a set, in the order of the day
    card.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def kept_steps(stage: Path) -> list[int]:
    """The steps whose adapters lie in a stage's folder, in order."""
    folder = stage / FOLDER
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir()) if folder.is_dir() else []
