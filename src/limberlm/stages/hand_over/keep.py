"""What a stage keeps on disk, adapters or whole models: at its end, and at log-spaced steps inside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from limberlm.files import whole_folder
from limberlm.stages.hand_over.rounding import ADAPTER
from limberlm.testbed.pretrain import checkpoint_folder, log_spaced

FOLDER = "checkpoints"  # beside the stage's final `adapter` or `model`

Save = Callable[[Any, Path], None]  # a model, and the folder it is written to


class Keeper(TrainerCallback):
    """Saves at `count` log-spaced steps, 1 and the last among them. It changes nothing in the training."""

    def __init__(self, folder: Path, count: int, save: Save) -> None:
        self.folder, self.count, self.save = folder, count, save

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Save, if it is one of the steps; of several processes the first one does."""
        if state.is_world_process_zero and self.count and state.global_step in log_spaced(state.max_steps, self.count):
            self.save(model, checkpoint_folder(self.folder, state.global_step))


def save_adapter(model: Any, out: Path, base: str) -> None:
    """Write a PEFT model's adapter as float32 safetensors and a card, the same bytes for the same weights.

    Only the trained adapter: the frozen copy that TRL keeps as the reference is left out.

    Args:
        model: the PEFT model; it stays as it is.
        out: the adapter's folder; it is there whole or not at all.
        base: what the card names as the base.

    """
    weights = {name: parameter.float() for name, parameter in model.named_parameters() if parameter.requires_grad}
    with whole_folder(out) as draft:
        model.save_pretrained(draft, state_dict=weights, save_embedding_layers=False, selected_adapters=[ADAPTER])
        (draft / "README.md").unlink(missing_ok=True)
        card = draft / "adapter_config.json"
        settings = json.loads(card.read_text())
        settings["base_model_name_or_path"] = base
        settings["target_modules"] = sorted(settings["target_modules"])  # PEFT writes a set, in the order of the day
        card.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def save_model(model: Any, out: Path, tokenizer: PreTrainedTokenizerBase, use_cache: bool) -> None:
    """Write a whole model as float32 safetensors, with its generation settings, tokenizer and chat template.

    Args:
        model: a transformers model with float32 weights; it stays as it is. Tied weights are written once.
        out: the model's folder; it is there whole or not at all.
        tokenizer: what is saved beside the weights, so that the folder can be used on its own.
        use_cache: the configuration's own value, which a Trainer turns off: loaded again, the model would sample
            without a cache.

    """
    with whole_folder(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        card = draft / "config.json"
        settings = json.loads(card.read_text()) | {"use_cache": use_cache}
        card.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def kept_steps(stage: Path) -> list[int]:
    """The steps whose checkpoints lie in a stage's folder, in order."""
    folder = stage / FOLDER
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir()) if folder.is_dir() else []
