"""Gradient readiness, the mathematics: from the inner products of micro-batch gradients to what one step can gain.

With an L-smooth loss and a stochastic gradient g of mean gb, a step of size eta lowers the loss by at least
eta ||gb||^2 - (L eta^2 / 2) E||g||^2, at the best eta by ||gb||^4 / (2 L E||g||^2) = strength x reliability / (2 L).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from limberlm.outcomes.plasticity.curve import Floats

NAMES = ("strength", "noise", "reliability", "readiness")
WITH_CURVATURE = (*NAMES, "curvature", "best_step", "gain")
FEWEST = 4


@dataclass(frozen=True)
class Estimate:
    """A number from K micro-batches, its delete-one standard error, a 95 % interval about it, and pseudo-values [K].

    The mean of the pseudo-values is the number itself for strength and noise, which are unbiased, and for the ratios
    the number corrected for bias to first order. Differences between checkpoints are paired through them.
    """

    value: float
    std_error: float
    low: float
    high: float
    items: tuple[float, ...]


def gradient_readiness(gram: ArrayLike, examples: int, at: int, curved: ArrayLike | None = None) -> dict[str, Estimate]:
    """What K micro-batch gradients of `examples` examples each say about a step at batch size `at`.

    Args:
        gram: inner products of the gradients [K, K], K >= 4.
        examples: examples b in each micro-batch.
        at: batch size b' of the step.
        curved: g_j' H_{k+1} g_k in place (j, k), where H_{k+1} is the Hessian of micro-batch k + 1, the first after
            the last. Own batches never meet, so nothing is counted twice.

    Returns:
        By name:

        - `strength` S2, an unbiased estimate of ||gb||^2 from all pairs: sum_{j != k} g_j'g_k / (K (K-1)); may be
          negative, and the sign is kept.
        - `noise` N2 = mean ||g_k||^2 - S2, the trace of the gradient's covariance at b examples.
        - `reliability` S2 / (S2 + N2 b/b'), at most 1; NaN where the denominator, which estimates E||g||^2 at b',
          is not above 0.
        - `readiness` |S2| x reliability: rises with S2 also below 0 (the plain product would rise again).
        - with `curved`: `curvature`, E g'Hg at batch b'; `best_step` S2 / curvature; `gain` S2 |S2| / (2 curvature),
          what that step wins; both NaN where the curvature is not above 0.

    Raises:
        ValueError: fewer than 4 gradients, or matrices that are not square and alike.

    Source: derived (the descent lemma and U-statistics); after the optimisation readiness of 2605.09044.

    >>> found = gradient_readiness(np.full((4, 4), 2.0) + 6 * np.eye(4), examples=8, at=8)
    >>> [round(found[name].value, 3) for name in ("strength", "noise", "reliability", "readiness")]
    [2.0, 6.0, 0.25, 0.5]

    """
    products = np.asarray(gram, dtype=np.float64)
    hessians = None if curved is None else np.asarray(curved, dtype=np.float64)
    count = len(products)
    if (
        count < FEWEST
        or products.shape != (count, count)
        or (hessians is not None and hessians.shape != products.shape)
    ):
        raise ValueError(f"inner products of shape {products.shape}: give those of at least {FEWEST} gradients, [K, K]")
    kept = np.ones(count, dtype=bool)
    whole = _numbers(products, hessians, kept, examples / at)
    without = np.array(
        [_numbers(products, hessians, kept & (np.arange(count) != k), examples / at) for k in range(count)]
    )
    names = NAMES if hessians is None else WITH_CURVATURE
    return {name: _estimate(whole[i], without[:, i]) for i, name in enumerate(names)}


def _numbers(gram: Floats, curved: Floats | None, kept: np.ndarray, ratio: float) -> Floats:
    own, pairs = _own_and_pairs(gram[np.ix_(kept, kept)], ~np.eye(int(kept.sum()), dtype=bool))
    strength, noise = pairs, own - pairs
    second = strength + ratio * noise
    reliability = strength / second if second > 0 else np.nan
    found = [strength, noise, reliability, abs(strength) * reliability]
    if curved is not None:
        curvature = _curvature(curved, kept, ratio)
        usable = curvature if curvature > 0 else np.nan
        found += [curvature, strength / usable, strength * abs(strength) / (2 * usable)]
    return np.array(found)


def _curvature(curved: Floats, kept: np.ndarray, ratio: float) -> float:
    """E g'Hg at b': between gradients of different batches, plus what one batch's noise adds, shrunk by b/b'."""
    places = np.flatnonzero(kept)
    columns = places[np.isin((places + 1) % len(kept), places)]  # those whose Hessian's batch is kept too
    part = curved[np.ix_(kept, columns)]
    row, column = places[:, None], columns[None]
    mine = part[row == column].mean()
    between = part[(row != column) & (row != (column + 1) % len(kept))].mean()
    return float(between + ratio * (mine - between))


def _own_and_pairs(gram: Floats, pairs: np.ndarray) -> tuple[float, float]:
    return float(np.trace(gram) / len(gram)), float(gram[pairs].mean())


def _estimate(value: float, without: Floats) -> Estimate:
    count = len(without)
    pseudo = count * value - (count - 1) * without
    error = float(np.sqrt(pseudo.var(ddof=1) / count))
    half = float(student.ppf(0.975, count - 1)) * error
    return Estimate(float(value), error, float(value - half), float(value + half), tuple(pseudo.tolist()))
