"""What a study of so many independent units could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import chi2, nct, norm, t

LEVEL, POWER = 0.05, 0.8


def units_needed(r: float, power: float = POWER, level: float = LEVEL, comparisons: int = 1) -> int:
    """Independent units for a two-sided test to find a correlation r, by Fisher's (1921) z, rounded up.

    ((z_{1 - level / 2 comparisons} + z_power) / atanh r)^2 + 3. ValueError unless 0 < |r| < 1.

    >>> units_needed(0.3), units_needed(0.3, power=0.9), units_needed(0.3, comparisons=6)
    (85, 113, 130)
    """
    if not 0 < abs(r) < 1:
        raise ValueError(f"r is {r}; give 0 < |r| < 1")
    return math.ceil((_ends(power, level / comparisons) / math.atanh(abs(r))) ** 2 + 3)


def detectable(units: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest correlation that n units find with that power, by Fisher's z; NaN below 4 units.

    >>> [round(detectable(n), 2) for n in (9, 18, 36)]
    [0.82, 0.62, 0.45]
    """
    return math.tanh(_ends(power, level) / math.sqrt(units - 3)) if units > 3 else math.nan


def exact_power(r: float, units: int, level: float = LEVEL) -> float:
    """The power of the t test of a correlation r between two normal variables over n units.

    Given the one variable, t is noncentral with n - 2 degrees of freedom and noncentrality r / sqrt(1 - r^2) sqrt(S),
    S its sum of squares; S is chi-squared with n - 1, and is averaged over 2000 equal parts of its law.

    >>> round(exact_power(0.5, 30), 3)
    0.828
    """
    squares = chi2.ppf((np.arange(2000) + 0.5) / 2000, units - 1)
    away = r / math.sqrt(1 - r * r) * np.sqrt(squares)
    limit = t.ppf(1 - level / 2, units - 2)
    return float(np.mean(nct.sf(limit, units - 2, away) + nct.cdf(-limit, units - 2, away)))


def units_to_settle(delta_r2: float, r2: float) -> float:
    """Independent units that would find the gain that was seen, were it the true one; infinite where there is none.

    The partial correlation is sqrt(delta R^2 / (1 - R^2(M0))). One covariate costs one unit more, which is left out.
    """
    if not delta_r2 > 0 or not r2 < 1:
        return math.inf
    partial = math.sqrt(min(delta_r2 / (1 - r2), 1 - 1e-9))
    return float(units_needed(partial))


def power_table(correlations: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6), comparisons: int = 6) -> pd.DataFrame:
    """Units needed for correlations, and the exact power there: `r, n, exact, n_90, n_adjusted`."""
    rows = [
        {
            "r": r,
            "n": (n := units_needed(r)),
            "exact": exact_power(r, n),
            "n_90": units_needed(r, power=0.9),
            "n_adjusted": units_needed(r, comparisons=comparisons),
        }
        for r in correlations
    ]
    return pd.DataFrame(rows)


def _ends(power: float, level: float) -> float:
    return float(norm.ppf(1 - level / 2) + norm.ppf(power))
