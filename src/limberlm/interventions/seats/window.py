"""How many micro-batches the optimiser step that begins now accumulates."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any


def window_length(accumulation: int, global_step: int, loader: Any) -> int:
    """Micro-batches of the step after `global_step`: fewer at the end of an epoch that they do not fill.

    Args:
        accumulation: `gradient_accumulation_steps`.
        global_step: optimiser steps taken so far.
        loader: the training dataloader; one without a length is taken as endless.

    >>> [window_length(4, step, range(6)) for step in range(5)]
    [4, 2, 4, 2, 4]

    """
    if not isinstance(loader, Sized):
        return accumulation
    steps = -(-len(loader) // accumulation)
    return min(accumulation, len(loader) - (global_step % steps) * accumulation)
