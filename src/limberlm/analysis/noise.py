"""How far the points of a curve stray from their neighbours, and the noise that this tells."""

from __future__ import annotations

import numpy as np

from limberlm.analysis.curve import Floats


def departures(x: Floats, y: Floats) -> Floats:
    """Each inner point's distance [..., n - 2] from the line through its neighbours, in units of one point's noise.

    (y_j - a y_{j-1} - (1 - a) y_{j+1}) / sqrt(1 + a^2 + (1 - a)^2), a = (x_{j+1} - x_j) / (x_{j+1} - x_{j-1}).
    """
    a = (x[2:] - x[1:-1]) / (x[2:] - x[:-2])
    distance = y[..., 1:-1] - a * y[..., :-2] - (1 - a) * y[..., 2:]
    return np.asarray(distance / np.sqrt(1 + a**2 + (1 - a) ** 2))


def noise(x: Floats, y: Floats) -> Floats:
    """The standard deviation of one point's noise, for each curve of `y` [..., n]: 1.4826 median |departures|.

    Curvature makes it too large, noise that neighbours share too small. Never below 1e-6 of the range, where rounding
    begins to count.

    >>> x, even = np.arange(5.0), np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    >>> round(float(noise(x, even)), 4)
    1.2105
    """
    spread = 1.4826 * np.median(np.abs(departures(x, y)), axis=-1)
    return np.asarray(np.maximum(spread, 1e-6 * np.ptp(y, axis=-1) + 1e-12))
