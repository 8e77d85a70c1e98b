"""How much ridge coefficients are shrunk, chosen inside the training set."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.prediction.splits import Ints

Floats = NDArray[np.float64]
PENALTIES = 10.0 ** np.arange(-4, 3)
INNER = 5


def best_penalty(covariates: Floats, y: Floats, groups: Ints) -> float:
    """The ridge penalty per row that predicts best over up to five folds of whole groups.

    Args:
        covariates: [n, p], centred.
        y: [n], centred.
        groups: [n]; rows of one group stay together. With one group only rows can be held out.

    """
    part = pd.factorize(groups)[0] if len(set(groups.tolist())) > 1 else np.arange(len(y))
    missed = np.zeros(len(PENALTIES))
    for fold in range(min(INNER, int(part.max()) + 1)):
        out = part % INNER == fold
        centre, mean = covariates[~out].mean(0), y[~out].mean()
        u, s, v = np.linalg.svd(covariates[~out] - centre, full_matrices=False)
        along, reach = u.T @ (y[~out] - mean), (covariates[out] - centre) @ v.T
        shrunk = s / (s**2 + PENALTIES[:, None] * (~out).sum())
        missed += ((y[out] - mean - (shrunk * along) @ reach.T) ** 2).sum(1)
    return float(PENALTIES[int(missed.argmin())])
