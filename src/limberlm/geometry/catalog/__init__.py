"""One record per metric: what it is, where it comes from, how to read it, how to compute it."""

from __future__ import annotations

import difflib

from limberlm.geometry.catalog import (
    dimension,
    domains,
    isotropy,
    logits,
    similarity,
    spectrum,
    trajectories,
    units,
    updates,
)
from limberlm.geometry.catalog.record import Metric

__all__ = ["CATALOG", "HEADLINE", "Metric", "metric"]

_FAMILIES = (spectrum, isotropy, dimension, domains, logits, trajectories, units, similarity, updates)

CATALOG: dict[str, Metric] = {record.name: record for family in _FAMILIES for record in family.METRICS}
"""Every metric by name, in display order."""

HEADLINE: tuple[str, ...] = (
    "effective_rank",
    "participation_ratio_debiased",
    "anisotropy",
    "entropy_median",
    "homogeneity_between",
)
"""What a reader meets first, and the family over which comparisons are adjusted."""


def metric(name: str) -> Metric:
    """The record of a metric; a corrected row resolves to its metric. KeyError names the nearest ones.

    >>> metric("effective_rank_corrected").title
    'Effective rank'
    >>> metric("efective_rank")
    Traceback (most recent call last):
    KeyError: 'no metric "efective_rank"; nearest: effective_rank, ...'
    """
    base = name.removesuffix("_corrected")
    if base in CATALOG and (base == name or CATALOG[base].corrected):
        return CATALOG[base]
    near = difflib.get_close_matches(name, CATALOG, n=3)
    raise KeyError(f'no metric "{name}"; nearest: {", ".join(near)}' if near else f'no metric "{name}"')
