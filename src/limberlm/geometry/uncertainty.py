"""Intervals by delete-one-block jackknife, exact paired differences, and adjustment for many comparisons.

With theta the value on all G blocks and theta_(b) without block b, the pseudo-values G theta - (G-1)
theta_(b) have mean theta_J, the bias-corrected value, and standard error SE; the interval is theta_J +-
t_{G-1} SE. It is centred on theta_J, not on theta: the bias of entropy ranks is several SE wide. A few metrics,
whose change with the number of rows is no bias that goes as 1/n, are centred on theta. It covers the choice of
probe sequences for fixed checkpoints, and says nothing about training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from limberlm.geometry.undefined import Undefined

Scale = Literal["log", "linear"]
Centre = Literal["corrected", "value"]
Floats = NDArray[np.float64]

MIN_BLOCKS = 8


@dataclass(frozen=True)
class Estimate:
    """A metric with its uncertainty.

    `value` (plug-in), `corrected` (theta_J, or the value where that is the centre), `low` and `high` are on the
    scale people read; `std_error` and `replicates` (theta_(b) in block order, NaN for empty blocks) on the
    jackknife's: natural logarithms for log metrics.
    """

    value: float
    corrected: float
    std_error: float
    low: float
    high: float
    replicates: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """b minus a over the same blocks; for log metrics `value`, `corrected`, `low` and `high` are ratios b/a.

    `std_error` is on the jackknife's scale; `p_value` is two-sided; `blocks` is how many entered.
    """

    value: float
    corrected: float
    std_error: float
    low: float
    high: float
    p_value: float
    blocks: int


def jackknife(
    value: float,
    replicates: Sequence[float],
    *,
    scale: Scale = "linear",
    centre: Centre = "corrected",
    confidence: float = 0.95,
) -> Estimate:
    """Delete-one-block estimate of a metric from its `value` and `replicates` [G], both on the shown scale.

    The interval lies about the bias-corrected value, or about the value itself for `centre` "value". NaN replicates
    (empty blocks) drop out. Below 8 blocks there is no standard error and no interval (NaN), below 2 no corrected
    value. Undefined for a NaN value, or one that is not positive on the log scale.

    Source: Quenouille-Tukey; blocks, scale and the limit of 8 are our choice.

    >>> estimate = jackknife(4.5, [5.0, 4.875, 4.75, 4.625, 4.375, 4.25, 4.125, 4.0])
    >>> estimate.corrected, round(estimate.std_error, 4), round(estimate.high, 4)
    (4.5, 0.9057, 6.6417)
    """
    theta, values = _on_scale(value, replicates, scale)
    kept = values[~np.isnan(values)]
    corrected, error, low, high = _interval(theta, kept, centre, confidence)
    shown = _shown(scale)
    return Estimate(
        value=float(value),
        corrected=shown(float(corrected)),
        std_error=float(error),
        low=shown(float(low)),
        high=shown(float(high)),
        replicates=tuple(values.tolist()),
    )


def paired_difference(
    value_a: float,
    replicates_a: Sequence[float],
    value_b: float,
    replicates_b: Sequence[float],
    *,
    scale: Scale,
    centre: Centre = "corrected",
    confidence: float = 0.95,
) -> Difference:
    """Difference b - a (b / a on the log scale) of two checkpoints that read the same probe and blocks.

    `value_*` are on the shown scale, `replicates_*` [G] as stored in `Estimate.replicates`. The jackknife of
    the difference keeps what the two share, which two separate intervals would throw away. Equal in every
    block (a stage that changed nothing): interval [0, 0] (ratio [1, 1]) and p = 1. Below 8 blocks: NaN
    interval and p.

    ValueError when the two were not measured on the same blocks; Undefined as in `jackknife`.

    >>> a, b = [3.0, 3.5, 4.0, 4.5] * 2, [3.0, 3.25, 4.5, 5.25] * 2
    >>> paired_difference(3.75, a, 3.75, a, scale="linear").p_value
    1.0
    >>> paired_difference(3.75, a, 4.0, b, scale="linear").value
    0.25
    """
    theta, values = _differences(value_a, replicates_a, value_b, replicates_b, scale)
    found = differences_of([theta], values[None], scale=scale, centre=centre, confidence=confidence)
    return Difference(**{name: float(each[0]) for name, each in found.items()}, blocks=int(values.size))


def differences_of(
    theta: ArrayLike, values: ArrayLike, *, scale: Scale, centre: Centre = "corrected", confidence: float = 0.95
) -> dict[str, Floats]:
    """The fields of many `Difference`s over the same blocks, [rows] each, but for `blocks`, which is G.

    `theta` [rows] are plug-in differences on the jackknife's scale, NaN where undefined; `values` [rows, G] are those
    without each block, none of them NaN (G may be 0).

    >>> differences_of([0.25], [[0.0, 1.0] * 4], scale="linear")["corrected"].tolist()
    [-1.5]
    """
    theta, values = np.asarray(theta, float), np.asarray(values, float)
    blocks = values.shape[1]
    corrected, error, low, high = _interval(theta, values, centre, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * stdtr(blocks - 1, -np.abs(corrected / error)) if blocks else np.full_like(theta, nan)
    same = ~values.any(axis=1) & ~np.isnan(theta) & (blocks > 0)
    corrected, error, low, high = (np.where(same, 0.0, each) for each in (corrected, error, low, high))
    shown = np.exp if scale == "log" else np.asarray
    return {
        "value": shown(theta),
        "corrected": shown(corrected),
        "std_error": error,
        "low": shown(low),
        "high": shown(high),
        "p_value": np.where(same, 1.0, p_value),
    }


def pseudo_values(
    value_a: float,
    replicates_a: Sequence[float],
    value_b: float,
    replicates_b: Sequence[float],
    *,
    scale: Scale,
    centre: Centre = "corrected",
) -> Floats:
    """The pseudo-values [G] whose mean and standard error are those of `paired_difference`, on the jackknife's scale.

    For `centre` "value" they are moved to have the plug-in difference as their mean. Arguments and errors as there.

    >>> a, b = [3.0, 3.5, 4.0, 4.5] * 2, [3.0, 3.25, 4.5, 5.25] * 2
    >>> pseudo_values(3.75, a, 4.0, b, scale="linear")[:4].tolist()
    [2.0, 3.75, -1.5, -3.25]
    """
    theta, values = _differences(value_a, replicates_a, value_b, replicates_b, scale)
    pseudo: Floats = values.size * theta - (values.size - 1) * values
    return pseudo - pseudo.mean() + theta if centre == "value" and pseudo.size else pseudo


def holm(p: ArrayLike) -> Floats:
    """Holm's adjusted p-values [m]: bounds the chance of any false positive, for a few fixed comparisons.

    NaN entries (undefined cells) stay NaN and do not count. ValueError outside [0, 1]. Source: Holm 1979.

    >>> holm([0.01, 0.04, float("nan"), 0.03]).round(6).tolist()
    [0.03, 0.06, nan, 0.06]
    """
    values, known, order = _sorted(p)
    m = order.size
    adjusted = np.maximum.accumulate(values[known][order] * np.arange(m, 0, -1))
    return _unsorted(values, known, order, adjusted)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Benjamini-Hochberg adjusted p-values [m]: bounds the share of false positives, for wide tables.

    NaN entries stay NaN and do not count. ValueError outside [0, 1]. Source: Benjamini and Hochberg 1995.

    >>> benjamini_hochberg([0.01, 0.04, float("nan"), 0.03]).round(6).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    values, known, order = _sorted(p)
    m = order.size
    raised = values[known][order] / (np.arange(1, m + 1) / m)
    return _unsorted(values, known, order, np.minimum.accumulate(raised[::-1])[::-1])


def minimum_detectable_effect(std_error: float, blocks: int, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest true difference that a two-sided test at `level` finds with probability `power`.

    (t_{1-level/2} + t_{power}) SE with blocks - 1 degrees of freedom, on the scale of `std_error`. ValueError
    below two blocks. Standard.

    >>> round(minimum_detectable_effect(1.0, blocks=16), 3)
    2.998
    """
    if blocks < 2:
        raise ValueError(f"needs two blocks, there are {blocks}")
    return float(stdtrit(blocks - 1, 1 - level / 2) + stdtrit(blocks - 1, power)) * std_error


def _differences(
    value_a: float, replicates_a: Sequence[float], value_b: float, replicates_b: Sequence[float], scale: Scale
) -> tuple[float, Floats]:
    """The change to b on the jackknife's scale: the plug-in difference, and that without each block that has texts."""
    a, b = np.asarray(replicates_a, float), np.asarray(replicates_b, float)
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        raise ValueError("the two checkpoints were not measured on the same blocks")
    theta = _on_scale(value_b, (), scale)[0] - _on_scale(value_a, (), scale)[0]
    return theta, (b - a)[~np.isnan(a)]


def _interval(theta: ArrayLike, values: Floats, centre: Centre, confidence: float) -> tuple[Floats, ...]:
    """Centre, standard error and ends of the interval, on the jackknife's scale, [...]; values are [..., G]."""
    theta, blocks = np.asarray(theta, float), values.shape[-1]
    unknown = np.full_like(theta, nan)
    if blocks < 2:
        return unknown, unknown, unknown, unknown
    pseudo = blocks * theta[..., None] - (blocks - 1) * values
    corrected = pseudo.mean(axis=-1) if centre == "corrected" else theta
    if blocks < MIN_BLOCKS:
        return corrected, unknown, unknown, unknown
    error = np.sqrt(pseudo.var(axis=-1, ddof=1) / blocks)
    half = float(stdtrit(blocks - 1, 0.5 + confidence / 2)) * error
    return corrected, error, corrected - half, corrected + half


def _on_scale(value: float, replicates: Sequence[float], scale: Scale) -> tuple[float, Floats]:
    values = np.asarray(replicates, float)
    if isnan(value):
        raise Undefined("the value is NaN")
    if scale == "linear":
        return float(value), values
    if value <= 0 or bool((values <= 0).any()):
        raise Undefined("a metric on the log scale must be positive in every block")
    return float(np.log(value)), np.log(values)


def _shown(scale: Scale) -> Callable[[float], float]:
    return (lambda x: float(np.exp(x))) if scale == "log" else float


def _sorted(p: ArrayLike) -> tuple[Floats, NDArray[np.bool_], NDArray[np.intp]]:
    values = np.asarray(p, float)
    known = ~np.isnan(values)
    if bool(((values[known] < 0) | (values[known] > 1)).any()):
        raise ValueError("p-values lie in [0, 1]")
    return values, known, np.argsort(values[known], kind="stable")


def _unsorted(values: Floats, known: NDArray[np.bool_], order: NDArray[np.intp], adjusted: Floats) -> Floats:
    found = np.empty(order.size)
    found[order] = np.minimum(adjusted, 1.0)
    result = np.full(values.shape, nan)
    result[known] = found
    return result
