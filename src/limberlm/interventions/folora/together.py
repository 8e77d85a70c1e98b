"""What several processes do at once: all of them, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from limberlm.errors import UserError, reason_of
from limberlm.geometry.summing import distributed

T = TypeVar("T")


def all_or_none(act: Callable[[], T]) -> T:
    """Do something in every process; where it fails in one, all of them stop, rather than wait for it for ever.

    Raises:
        UserError: it failed in another process; says which, and why.

    """
    if not distributed():
        return act()
    fault: Exception | None = None
    try:
        result = act()
    except Exception as error:
        fault = error
    told: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(told, None if fault is None else reason_of(fault))
    if fault is not None:
        raise fault
    for rank, reason in enumerate(told):
        if reason is not None:
            raise UserError(f"process {rank}: {reason}")
    return result
