"""Mean and median of what tokens or sequences read one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from limberlm.geometry.undefined import Undefined


def mean(values: Tensor) -> Tensor:
    """Mean of the values [n] of tokens or sequences, 0-d float64; those that are NaN have none, and are left out.

    Undefined when no value is left; ValueError for infinite ones.

    >>> mean(torch.tensor([1.0, float("nan"), 2.0])).item()
    1.5
    """
    return _defined(values).mean()


def median(values: Tensor) -> Tensor:
    """Median of the values [n], 0-d float64: of an even number the middle of the central two; NaN left out.

    A few tokens where the text forks carry the mean entropy, so the median is the steadier reading. Undefined
    when no value is left; ValueError for infinite ones.

    >>> median(torch.tensor([1.0, 2.0, 9.0, 3.0])).item()
    2.5
    """
    kept = _defined(values)
    lower = kept.kthvalue((kept.numel() + 1) // 2).values
    upper = kept.kthvalue(kept.numel() // 2 + 1).values
    return (lower + upper) / 2


def _defined(values: Tensor) -> Tensor:
    if values.ndim != 1:
        raise ValueError(f"values are [n], these have shape {tuple(values.shape)}")
    kept = values[~values.isnan()].to(torch.float64)
    if kept.numel() == 0:
        raise Undefined("no values" if values.numel() == 0 else "none of the values is defined")
    if bool(kept.isinf().any()):
        raise ValueError("infinite values have no mean and no median")
    return kept
