"""A model over all devices, and on disk where its weights do not fit: how much of it each may hold."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

AUTO = "auto"
"""The device of a model that is spread."""

WEIGHTS = 0.5
"""The share of the memory that weights may take; the rest is for the pass. Our choice."""


class Spread:
    """How transformers is to load a model over the GPUs, then the host, then the disk.

    Attributes: `options` of `from_pretrained`; `folder`, for weights that are not stored as the model has them. All
    others that no device holds are read from the checkpoint as they are needed, layer by layer.
    """

    def __init__(self, held: int | None) -> None:
        self.folder = TemporaryDirectory(prefix="limberlm-", ignore_cleanup_errors=True)
        self.options: dict[str, Any] = {
            "device_map": AUTO,
            "max_memory": {name: free if held is None else min(free, held) for name, free in _limits().items()},
            "offload_folder": self.folder.name,
        }


def _limits() -> dict[int | str, int]:
    """Bytes of weights that each GPU and the host may hold."""
    limits: dict[int | str, int] = {
        number: int(torch.cuda.mem_get_info(number)[0] * WEIGHTS) for number in range(torch.cuda.device_count())
    }
    return limits | {"cpu": int(psutil.virtual_memory().available * WEIGHTS)}
