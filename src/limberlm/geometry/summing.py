"""How sums are taken: in which precision, and over which processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Matrix products in true float32, whatever TF32, bf16 or autocast setting surrounds the call."""
    switches = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    changed = [(s, s.fp32_precision) for s in switches if s.fp32_precision not in ("none", "ieee")]
    for switch, _ in changed:
        switch.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, before in changed:
            switch.fp32_precision = before


def working(states: Tensor) -> Tensor:
    """States in the precision products are taken in: float64 if given so, else float32."""
    return states if states.dtype == torch.float64 else states.to(torch.float32)


def reduced(values: Tensor, *, broadcast: bool = False) -> Tensor:
    """A copy of `values` summed over processes (or taken from process 0), on the device it came from."""
    on_gpu = dist.get_backend() == "nccl"
    shared = values.clone() if not on_gpu else values.to("cuda", copy=True)
    if broadcast:
        dist.broadcast(shared, src=0)
    else:
        dist.all_reduce(shared)
    return shared.to(values.device)


def distributed() -> bool:
    """Whether there are other processes to sum over."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
