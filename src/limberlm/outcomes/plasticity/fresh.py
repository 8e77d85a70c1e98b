"""The adapter that every checkpoint learns with: fresh, the same everywhere, and gone afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel


@contextmanager
def fresh_adapter(model: PreTrainedModel, adapter: LoraConfig, seed: int) -> Iterator[Any]:
    """The model wearing a new adapter without dropout, drawn from `seed`; taken off again at the end."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapter = copy.deepcopy(adapter)  # PEFT writes into it
    adapter.lora_dropout = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = get_peft_model(model, adapter)
    try:
        yield student.eval()
    finally:
        student.unload()
        for module, training in modes:
            module.training = training
        for parameter, trained in flags:
            parameter.requires_grad_(trained)
