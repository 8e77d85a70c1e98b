"""Made-up trajectories of ln effective rank whose phases are known, and noise to put on them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Noise = Literal["normal", "heavy", "wandering", "drifting"]
COEFFICIENTS = {"wandering": 0.6, "drifting": 0.9}

LAST = 4000
KNOTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "flat": ((0, 1), (3, 3)),
    "rise": ((0, 1), (3, 4)),
    "fall": ((0, 1), (4, 3)),
    "saturating": ((), ()),
    "F R": ((0, 0.2, 1), (3.5, 3, 4)),
    "R F": ((0, 0.6, 1), (3, 4, 3.5)),
    "F R F": ((0, 0.2, 0.65, 1), (3.5, 3, 4, 3.6)),
    "F R F, last fall 0.1": ((0, 0.2, 0.65, 1), (3.5, 3, 4, 3.9)),
    "F R F from its maximum": ((0, 0.2, 0.65, 1), (5, 3, 4, 3.5)),
    "F R F R": ((0, 0.15, 0.5, 0.75, 1), (3.5, 3, 4, 3.6, 3.9)),
}
"""Where each curve bends, in u = ln t rescaled to 0..1, and its values there; the saturating one is 4 - e^(-4u)."""

PATTERNS = {
    "flat": ("",),
    "rise": ("R",),
    "fall": ("F",),
    "saturating": ("R",),
    "F R F, last fall 0.1": ("F R F", "F R"),
    "F R F from its maximum": ("F R F",),
}
"""What may be said of a curve, the truth first; of the others, their name."""

MONOTONE = ("rise", "fall", "saturating")


def patterns(name: str) -> tuple[str, ...]:
    return PATTERNS.get(name, (name,))


def steps(n: int) -> Floats:
    return np.geomspace(1, LAST, n)


def curve(name: str, n: int) -> Floats:
    u = np.linspace(0, 1, n)
    places, values = KNOTS[name]
    return 4 - np.exp(-4 * u) if name == "saturating" else np.interp(u, places, values)


def noisy(name: str, n: int, deviation: float, repetition: int, noise: Noise = "normal") -> Floats:
    """The curve with noise of seed 1000 r + 7: normal, t with 3 degrees of freedom, or AR(1) of the same deviation."""
    rng = np.random.default_rng(1000 * repetition + 7)
    if noise == "heavy":
        return curve(name, n) + deviation * rng.standard_t(3, n)
    drawn = rng.standard_normal(n)
    if noise in COEFFICIENTS:
        kept = COEFFICIENTS[noise]
        for i in range(1, n):
            drawn[i] = kept * drawn[i - 1] + np.sqrt(1 - kept**2) * drawn[i]
    return curve(name, n) + deviation * drawn


def with_outlier(name: str, n: int, deviation: float, repetition: int) -> tuple[Floats, int]:
    """Normal noise, and one checkpoint ten deviations off, up or down; the first and last three are spared.

    At an end of a monotone curve a checkpoint that is off along the trend cannot be told from a steep end.
    """
    values = noisy(name, n, deviation, repetition)
    rng = np.random.default_rng([repetition, 7])
    place = int(rng.integers(3, n - 3))
    values[place] += 10 * deviation * rng.choice([-1, 1])
    return values, place


# A Llama of 1.07 M parameters in its first 2 M tokens: effective rank, exponent, rank behind 8 directions (last token).
PILOT_STEPS = (0, 10, 15, 19, 23, 28, 35, 53, 100, 152, 433, 1000)
PILOT_RANK = (50.4, 73.3, 56.8, 25.4, 6.45, 1.65, 1.55, 2.59, 5.81, 11.5, 34.6, 47.0)
PILOT_ALPHA = (1.41, 0.94, 0.89, 0.96, 1.05, 1.23, 1.55, 2.28, 3.11, 3.53, 2.20, 1.54)
PILOT_HEAD_REMOVED = (67.9, 89.3, 90.9, 87.8, 83.5, 75.2, 49.3, 21.5, 10.7, 13.8, 45.4, 63.4)
PILOT_WARMUP = 40
