"""Controls of the toy model: what its golden run owes to a start that the paper does not state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from limberlm.errors import UserError
from limberlm.testbed.toy import GOLDEN_COUNTS, GOLDEN_RATE, Floats, Loss, ToyRun, descend, one_hot

DIP_WITHIN = 100
SPREAD, RATE = 0.3, 0.3
JITTERS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


@dataclass(frozen=True)
class Control:
    """A setting of iid Gaussian starts, and what the paper says of it."""

    name: str
    counts: tuple[int, ...]
    width: int
    loss: Loss
    claim: str
    seeds: int = 60
    steps: int = 300


CONTROLS = (
    Control("skew 2 2 1 1, d = 2", (2, 2, 1, 1), 2, "cross_entropy", "compression"),
    Control("same, 3,000 steps", (2, 2, 1, 1), 2, "cross_entropy", "compression", seeds=30, steps=3000),
    Control("uniform 2 2 2 2, d = 2", (2, 2, 2, 2), 2, "cross_entropy", "none"),
    Control("no bottleneck, d = 3", (2, 2, 1, 1), 3, "cross_entropy", "none"),
    Control("squared error, skew", (2, 2, 1, 1), 2, "squared_error", "none; learns frequent classes only"),
    Control("squared error, uniform", (2, 2, 2, 2), 2, "squared_error", "none"),
)


@dataclass(frozen=True)
class Swings:
    """Of each run: the dip, the peak after it, and two measures of what is lost again.

    `decline` is the peak minus the lowest value after it. `fall` is the largest fall between any two later steps, which
    also counts wiggles on the way up, and a fall that a later rise more than makes good.
    """

    dip: Floats
    peak: Floats
    decline: Floats
    fall: Floats


def swings(rank: Floats, within: int = DIP_WITHIN) -> Swings:
    """The dip, peak and declines of curves [steps + 1, runs].

    The dip is the lowest value of the first `within` steps: later minima are the decline that is looked for. The peak
    is the highest value from there on. Our choice.

    Raises:
        UserError: not curves of at least two values.

    >>> found = swings(np.array([[2.0], [1.0], [3.0], [2.0], [4.0], [3.5]]))
    >>> found.dip.item(), found.peak.item(), found.decline.item(), found.fall.item()
    (1.0, 4.0, 0.5, 1.0)
    """
    if rank.ndim != 2 or len(rank) < 2:
        raise UserError(f"rank of shape {rank.shape}: give curves [steps + 1, runs]")
    steps, runs = np.arange(len(rank))[:, None], np.arange(rank.shape[1])
    lowest = rank[:within].argmin(0)
    highest = np.where(steps >= lowest, rank, -np.inf).argmax(0)
    after = np.where(steps >= highest, rank, np.inf).min(0)
    peak = rank[highest, runs]
    so_far = np.maximum.accumulate(np.where(steps >= lowest, rank, -np.inf), axis=0)
    fall = np.where(steps >= lowest, so_far - rank, 0.0).max(0)
    return Swings(rank[lowest, runs], peak, peak - after, fall)


def iid_start(counts: tuple[int, ...], width: int, seed: int) -> tuple[Floats, Floats]:
    """Independent Gaussian features [b, d], drawn first, and weights [d, V], both with standard deviation 0.3."""
    rng = np.random.default_rng(seed)
    return (
        SPREAD * rng.standard_normal((sum(counts), width)),
        SPREAD * rng.standard_normal((width, len(counts))),
    )


def run_control(control: Control) -> ToyRun:
    """Every seed of a control side by side, mean loss, rate 0.3."""
    starts = [iid_start(control.counts, control.width, seed) for seed in range(control.seeds)]
    features, weights = (np.stack(part) for part in zip(*starts, strict=True))
    targets = one_hot(control.counts)
    return descend(features, weights, targets, rate=RATE, steps=control.steps, loss=control.loss)


@dataclass(frozen=True)
class Summary:
    """A control in numbers: shares of seeds in [0, 1], and medians over seeds.

    `declines` and `strong_declines`: more than 0.002 and 0.01 below the peak afterwards; `falls`: a fall of more than
    0.002 anywhere after the dip.
    """

    control: Control
    declines: float
    strong_declines: float
    falls: float
    dip: float
    peak: float


def summarise(control: Control) -> Summary:
    """Run a control and count."""
    own = swings(run_control(control).rank)
    return Summary(
        control,
        declines=float((own.decline > 0.002).mean()),
        strong_declines=float((own.decline > 0.01).mean()),
        falls=float((own.fall > 0.002).mean()),
        dip=float(np.median(own.dip)),
        peak=float(np.median(own.peak)),
    )


def jittered_start(scale: float, seed: int) -> tuple[Floats, Floats]:
    """The golden start before its jitter, where the two rare classes coincide, with jitter of `scale` (f, then W)."""
    u = np.array([np.cos(np.deg2rad(100)), np.sin(np.deg2rad(100))])
    w = np.array([1.0, 0.03])  # not normalised: a normalised one starts at 1.93346
    across_u, across_w, origin = np.array([-u[1], u[0]]), np.array([-w[1], w[0]]), np.zeros(2)
    frequent = [0.6 * u + 0.05 * across_u, 0.6 * u - 0.05 * across_u, 0.75 * w + 0.05 * across_w]
    features = np.stack([*frequent, 0.75 * w - 0.05 * across_w, origin, origin])
    weights = np.stack([np.array([0, 0.6]), 0.74 * w, origin, origin], axis=1)
    rng = np.random.default_rng(seed)
    features = features + scale * rng.standard_normal(features.shape)
    return features, weights + scale * rng.standard_normal(weights.shape)


def run_jittered(scale: float, seeds: int = 8, steps: int = 300) -> ToyRun:
    """The golden setting under jitter of `scale`, seeds side by side."""
    starts = [jittered_start(scale, seed) for seed in range(seeds)]
    features, weights = (np.stack(part) for part in zip(*starts, strict=True))
    return descend(features, weights, one_hot(GOLDEN_COUNTS), rate=GOLDEN_RATE, steps=steps)
