"""Intrinsic dimension: how many directions the states use locally, along curved surfaces too."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import dimension
from limberlm.geometry.catalog.record import Metric

_NOTE = (
    "Invariant to rotation, translation and positive scale; near-duplicates are left out first. Reads low, the more "
    "so the higher the dimension and the fewer the rows: above 15 an order, no level, and only at one number of rows. "
    "The interval is for that number of rows, so centred on the value."
)

_dimension = partial(
    Metric,
    family="dimension",
    bounds="> 0",
    direction="down",
    scale="log",
    needs="neighbours",
    conventions=("rms",),
    interval="value",
    suite="full",
)

METRICS = (
    _dimension(
        name="twonn",
        title="Intrinsic dimension, TwoNN",
        formula="slope through 0 of -ln(1 - F) on ln mu, mu = r2/r1, top 10 % dropped",
        source="Facco et al. 2017 (1803.06992); the removal of near-duplicates is our choice",
        compute=dimension.twonn,
        note=_NOTE,
        misses="Sees the two nearest states only, so noise and doubles pass for shape; global loss of rank that leaves "
        "neighbourhoods alone is not seen.",
        oracle="scikit-dimension; Gaussian rows of dimension 5, 10, 20 and 50; a regression by hand",
    ),
    _dimension(
        name="mle_dimension",
        title="Intrinsic dimension, maximum likelihood",
        formula="1 / mean of ln(T_k/T_j) over rows and j < k, T_j the distance to the j-th neighbour, k = 20",
        source="Levina and Bickel 2004, inverses averaged as by MacKay and Ghahramani; near-duplicates: our choice",
        compute=dimension.mle_dimension,
        note=f"{_NOTE} Steadier than TwoNN and lower in high dimensions.",
        misses="Twenty neighbours reach beyond what is locally flat: curvature raises it and edges lower it.",
        oracle="scikit-dimension; Gaussian rows of dimension 5, 10 and 20; three points by hand",
    ),
)
