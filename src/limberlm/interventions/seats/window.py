"""How many micro-batches the optimiser step that begins now accumulates."""

from __future__ import annotations

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
    try:
        batches = len(loader)
    except TypeError:  # a dataloader of a stream has the method, and no length
        return accumulation
    steps = -(-batches // accumulation)
    return min(accumulation, batches - (global_step % steps) * accumulation)
