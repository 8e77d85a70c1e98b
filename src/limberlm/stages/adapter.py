"""Whether an adapter that is there is of the settings that a stage asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from limberlm.errors import UserError
from limberlm.observe.model.weights import headers, read_json
from limberlm.observe.updates.adapters import CONFIG, WEIGHTS
from limberlm.stages.settings.adapter import AdapterSettings


def refuse_other_settings(settings: AdapterSettings, folder: Path, model: Any) -> None:
    """Refuse to go on training an adapter of other settings: PEFT would keep the adapter's own without a word.

    Args:
        settings: those asked for.
        folder: of the adapter that is there.
        model: the model's configuration, from which the modules that the settings stand for are found.

    Raises:
        UserError: names the first setting that differs.

    """
    card = read_json(folder / CONFIG)
    for name in ("r", "lora_alpha", "lora_dropout"):
        if getattr(settings, name) != card.get(name):
            raise _other(f"{name}: {getattr(settings, name)}", f"{name}: {card.get(name)}")
    wanted, found = _modules(settings, model), {name.rpartition(".lora_")[0] for name in headers(folder / WEIGHTS)}
    if wanted != found:
        differing = sorted(name.removeprefix("base_model.model.") for name in wanted ^ found)
        which = "adapts" if sorted(wanted ^ found)[0] in found else "does not adapt"
        raise _other(f"target_modules: {settings.target_modules}", f"{which} {differing[0]}")


def _modules(settings: AdapterSettings, config: Any) -> set[str]:
    """The modules that a fresh adapter would sit on, from a model without weights."""
    with torch.device("meta"):
        empty: Any = get_peft_model(AutoModelForCausalLM.from_config(config), settings.lora(), low_cpu_mem_usage=True)
    tensors: Mapping[str, Any] = get_peft_model_state_dict(empty, save_embedding_layers=False)
    return {name.rpartition(".lora_")[0] for name in tensors}


def _other(wanted: str, found: str) -> UserError:
    return UserError(
        f"adapter.{wanted}, and hand_over: continue goes on training an adapter with {found}; "
        "give both stages the same adapter, or hand over by merge or stack"
    )
