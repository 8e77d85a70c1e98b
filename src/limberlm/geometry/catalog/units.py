"""Hidden units: which hardly ever fire, and which say the same as another."""

from __future__ import annotations

from functools import partial

from limberlm.geometry import units
from limberlm.geometry.catalog.record import Metric

_unit = partial(
    Metric,
    family="units",
    direction="up",
    scale="linear",
    bounds="[0, 1]",
    conventions=("raw",),
    sites="blocks",
    null=lambda c: 0.0,
    integer=True,
    suite="full",
)


def _dormant(tau: float) -> Metric:
    return _unit(
        name=f"dormant_units_{tau}",
        title=f"Dormant units, tau = {tau}",
        formula=f"share of hidden units with E|h_i| <= {tau} x mean_k E|h_k|",
        source="2302.12902; the grid of tau is our choice",
        needs="units",
        compute=partial(units.dormant_share, tau=tau),
        note="Read before the down projection. Invariant to the scale of the layer. A count of units, so no interval.",
        misses="A unit that fires on rare tokens only looks dormant; a small activation with large outgoing weights "
        "still matters.",
        oracle="10 of 100 units zeroed; loops over units in float64",
    )


METRICS = (
    _dormant(0.01),
    _dormant(0.025),
    _dormant(0.1),
    _unit(
        name="duplicated_units",
        title="Duplicated units",
        formula="share of hidden units with another of |correlation| > 0.99",
        source="Cloned units after 2510.00304; a share, and its threshold, are our choice",
        needs="activations",
        compute=units.duplicated_share,
        note="Read before the down projection, on a sample of tokens. Invariant to an affine map of each unit. "
        "Constant units do not count. A count of units, so no interval.",
        misses="Units that are alike in groups of a few linear combinations, without any two being alike.",
        oracle="numpy's corrcoef; clones planted among independent units",
        reads="activations",
    ),
)
