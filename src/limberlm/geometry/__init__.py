"""The mathematics: tensors in, numbers out. Imports torch, numpy and scipy, and nothing else of limberlm.

`statistics` holds sums that merge, `summing` says how they are taken; `spectrum` and `isotropy` turn them into metrics;
`uncertainty` gives intervals and paired differences; `null` gives what each metric reads when there is nothing to see;
`catalog` lists them all.
"""

from __future__ import annotations

from limberlm.geometry.between_blocks import BlockProducts, CrossProducts, cka, participation_ratio_debiased
from limberlm.geometry.catalog import CATALOG, HEADLINE, Metric, metric
from limberlm.geometry.cross import CrossMoments
from limberlm.geometry.isotropy import centred_directions, mean_cosine
from limberlm.geometry.spectrum import (
    effective_rank,
    eigenvalues,
    participation_ratio,
    rankme,
    stable_rank,
    variance_share,
)
from limberlm.geometry.statistics import Directions, Moments, PackedMoments, RunningMoments
from limberlm.geometry.uncertainty import (
    Difference,
    Estimate,
    benjamini_hochberg,
    holm,
    jackknife,
    minimum_detectable_effect,
    paired_difference,
    pseudo_values,
)
from limberlm.geometry.undefined import Undefined

__all__ = [
    "CATALOG",
    "HEADLINE",
    "BlockProducts",
    "CrossMoments",
    "CrossProducts",
    "Difference",
    "Directions",
    "Estimate",
    "Metric",
    "Moments",
    "PackedMoments",
    "RunningMoments",
    "Undefined",
    "benjamini_hochberg",
    "centred_directions",
    "cka",
    "effective_rank",
    "eigenvalues",
    "holm",
    "jackknife",
    "mean_cosine",
    "metric",
    "minimum_detectable_effect",
    "paired_difference",
    "participation_ratio",
    "participation_ratio_debiased",
    "pseudo_values",
    "rankme",
    "stable_rank",
    "variance_share",
]
