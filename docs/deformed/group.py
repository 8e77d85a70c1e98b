"""Metrics that are shown the same things, and how they respond."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isnan, log, nan
from statistics import fmean

import numpy as np

REPEATS = 4
"""Draws between which the spread is taken; every deformation is done to the first two."""

PAIRED = 2
EXACT = 1e-7
"""Changes below this are the rounding of values kept in float32, and told as none at all."""

Values = Mapping[tuple[str, str], float]
"""By metric and series: a convention, or "" where there is only one."""


@dataclass(frozen=True)
class Group:
    """Metrics that read one kind of thing.

    Attributes: `about`, what that is, in a sentence; `deformations`, by name, in the order they are drawn;
    `values`, all metrics named, on a seed, after one deformation or none.
    """

    name: str
    about: str
    deformations: tuple[str, ...]
    values: Callable[[int, str | None, frozenset[str]], Values]


@dataclass(frozen=True)
class Response:
    """How one metric responds under one series.

    Attributes: `start`, its value before; `spread`, the standard deviation of that between draws; `changes`, by
    deformation: of the logarithm for metrics on that scale, exactly 0 where only rounding is left, NaN where the
    metric is undefined afterwards.
    """

    series: str
    start: float
    spread: float
    changes: Mapping[str, float]


@lru_cache(maxsize=64)
def responses(group: Group, names: frozenset[str], logarithmic: frozenset[str]) -> Mapping[str, tuple[Response, ...]]:
    """By metric, its responses; a change is the mean over draws of after minus before on the same draw."""
    before = [group.values(seed, None, names) for seed in range(REPEATS)]
    after = {name: [group.values(seed, name, names) for seed in range(PAIRED)] for name in group.deformations}
    found: dict[str, tuple[Response, ...]] = {}
    for metric, series in before[0]:
        scaled = _logarithm if metric in logarithmic else float
        key = (metric, series)
        plain = [scaled(values[key]) for values in before]
        changes = {
            name: _rounded(fmean(scaled(values[key]) - start for values, start in zip(draws, plain, strict=False)))
            for name, draws in after.items()
        }
        response = Response(series, fmean(values[key] for values in before), float(np.std(plain, ddof=1)), changes)
        found[metric] = (*found.get(metric, ()), response)
    return found


def _logarithm(value: float) -> float:
    return log(value) if value > 0 else nan


def _rounded(change: float) -> float:
    return change if isnan(change) or abs(change) > EXACT else 0.0
