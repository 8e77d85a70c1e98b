"""Hand-over `merge`: a stage starts from the base with every earlier adapter added into its weights, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel


def merge_adapters(base: Any, adapters: Sequence[Path]) -> PreTrainedModel:
    """Add the adapters into `base`, first to last, in place.

    Merging in 16 bits loses up to 44 % of a small adapter's effect, so the base must be in float32.

    Raises:
        ValueError: the base is not in float32.

    """
    model: PreTrainedModel = base
    for folder in adapters:
        if model.dtype != torch.float32:
            raise ValueError(f"adapters are merged in float32 only, and the base is in {model.dtype}")
        model = PeftModel.from_pretrained(model, folder, torch_device=str(model.device)).merge_and_unload()
    return model
