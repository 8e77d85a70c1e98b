"""Leaving things as they were found: random states, train/eval flags, gradients; also after an exception."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def same_random_states() -> Iterator[None]:
    """The random states of Python, numpy and torch (every device) are on leaving what they were on entering.

    >>> before = random.getstate()
    >>> with same_random_states():
    ...     _ = random.random()
    >>> random.getstate() == before
    True
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast and no TF32 inside; everything as before on leaving.

    Each module gets its own train/eval flag back, because a model may mix them. Autocast and TF32 are off
    because a trainer may have set either, and a geometry measured under it differs from one measured outside.

    >>> model = nn.Dropout()
    >>> with untouched(model):
    ...     model.training, torch.is_grad_enabled()
    (False, False)
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    matmul = torch.backends.cuda.matmul
    product_mode = matmul.fp32_precision
    device = next((p.device.type for p in model.parameters() if not p.is_meta), "cpu")
    try:
        model.eval()
        matmul.fp32_precision = "ieee"
        with same_random_states(), torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        matmul.fp32_precision = product_mode
        for module, training in modes:
            module.training = training
