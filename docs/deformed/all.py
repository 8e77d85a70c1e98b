"""Which group shows a metric, or why it has no picture."""

from __future__ import annotations

from collections.abc import Sequence

from deformed import predictions, states, units, weights
from deformed.group import Group, Response, responses
from limberlm.geometry import CATALOG, Metric

GROUPS: dict[str, Group] = {
    group.name: group for part in (states, predictions, units, weights) for group in part.GROUPS
}

_BEYOND = "No picture: the states behind the pictures have 128 dimensions, and this band begins where they end."
WITHOUT = {
    "alpha_band_128_512": _BEYOND,
    "alpha_band_512": _BEYOND,
    "update_excess_overlap_permuted": "No picture of its own: it is `update_excess_overlap` of two modules, and "
    "responds as that does.",
}
"""Metrics without a picture, and why."""


def group_of(metric: Metric) -> Group:
    """The group that a metric is shown in."""
    by_family = {"similarity": "similarity", "units": "units"}
    by_needs = {"update": "update", "updates": "updates"}
    if metric.family == "logits":
        name = "predictions" if metric.needs == "tokens" else "head"
    elif metric.needs == "tokens":
        name = "depth"
    else:
        name = by_family.get(metric.family) or by_needs.get(metric.needs) or "states"
    return GROUPS[name]


def response(name: str, together: Sequence[str] | None = None) -> tuple[Response, ...]:
    """How a metric responds; `together`, those of its group that are computed with it, all of them by default."""
    group = group_of(CATALOG[name])
    members = [m for m in CATALOG if group_of(CATALOG[m]) is group and m not in WITHOUT]
    chosen = frozenset(members if together is None else together)
    return responses(group, chosen, frozenset(m for m in chosen if CATALOG[m].scale == "log"))[name]
