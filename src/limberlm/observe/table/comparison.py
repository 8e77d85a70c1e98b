"""Two checkpoints on the same probe: paired differences with intervals and adjusted p-values."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isnan, nan
from typing import Any

import numpy as np
import pandas as pd

from limberlm.errors import UserError
from limberlm.geometry import (
    CATALOG,
    HEADLINE,
    Difference,
    Undefined,
    benjamini_hochberg,
    holm,
    minimum_detectable_effect,
    paired_difference,
)
from limberlm.observe.table.geometry import Geometry, headline_site

KEYS = ["site", "metric", "convention", "domain"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What changed from checkpoint a to checkpoint b.

    `table` columns: site, depth, metric, convention, domain; `a` and `b`, the two values; `change`, b/a for
    metrics on the log `scale`, b - a otherwise; `corrected`, the change without its sampling bias, on which
    the interval `low`, `high` is centred; `std_error` on the jackknife's scale; `p_value`; `p_adjusted` (Holm
    over the `headline` rows, Benjamini-Hochberg over the others, which are exploratory); `headline`;
    `detectable`, the smallest change (ratio or difference) that would be found four times out of five.
    Undefined cells are NaN.

    The interval covers the choice of probe sequences for these two checkpoints, not training seeds.
    """

    table: pd.DataFrame
    a: dict[str, Any]
    b: dict[str, Any]

    @property
    def headline(self) -> pd.DataFrame:
        """The rows fixed in advance: the headline metrics over the depth band, or at the logits."""
        return self.table[self.table["headline"]].reset_index(drop=True)


def compare(a: Geometry, b: Geometry) -> Comparison:
    """Paired differences of every metric, b against a, from stored values alone: the jackknife of the difference.

    Raises:
        UserError: the two were not measured on the same probe under the same convention; names the field that
            differs and both of its values.
    """
    if difference := unlike(a, b):
        raise UserError(f"{difference}; measure both checkpoints in the same way")
    pairs = _paired(a, b)
    rows = [_row(pair) for pair in pairs.to_dict("records") if pair["metric"] in CATALOG]
    if not rows:
        raise UserError("the two have no number in common; measure both with the same metrics and layers")
    table = pd.DataFrame(rows)
    for chosen, adjust in ((table["headline"], holm), (~table["headline"], benjamini_hochberg)):
        table.loc[chosen, "p_adjusted"] = adjust(table.loc[chosen, "p_value"].to_numpy())
    return Comparison(table, a.manifest, b.manifest)


def unlike(a: Geometry, b: Geometry) -> str | None:
    """In what two geometries were measured otherwise, probe or convention, with both values; None where in nothing."""
    fields = {"probe digest": (a.manifest["probe"]["digest"], b.manifest["probe"]["digest"])}
    beside = [geometry.manifest["checkpoint"].get("reference") for geometry in (a, b)]
    if None not in beside:  # what only one of them has is not compared
        fields["reference"] = (beside[0], beside[1])
    left, right = a.manifest["convention"], b.manifest["convention"]
    # the preset first: what it sets differs with it
    names = sorted(left.keys() | right.keys(), key=lambda name: (name != "preset", name))
    fields |= {name: (left.get(name), right.get(name)) for name in names}
    for name, (one, other) in fields.items():
        if one != other:
            return f"{name} differs: {one} against {other}"
    return None


def _paired(a: Geometry, b: Geometry) -> pd.DataFrame:
    pairs = a.table.merge(b.table, on=KEYS, suffixes=("_a", "_b"))
    unlike = pairs[pairs["n_tokens_a"] != pairs["n_tokens_b"]]
    if len(unlike):
        row = unlike.iloc[0]
        raise UserError(
            f"n_tokens of {row['site']}, {row['convention']} differs: {row['n_tokens_a']} against "
            f"{row['n_tokens_b']}; one checkpoint has states of zero norm there"
        )
    return pairs


def _row(pair: dict[Any, Any]) -> dict[str, Any]:
    metric = CATALOG[pair["metric"]]
    left, right = np.array(pair["replicates_a"]), np.array(pair["replicates_b"])
    # the blocks agree, so NaN on one side only means that this side has no interval
    missing = np.isnan(left).all() or np.isnan(right).all()
    left, right = (np.full_like(left, nan),) * 2 if missing else (left, right)
    try:
        found = paired_difference(
            pair["value_a"],
            left.tolist(),
            pair["value_b"],
            right.tolist(),
            scale=metric.scale,
            centre="value" if metric.interval == "value" else "corrected",
        )
    except Undefined:
        found = Difference(nan, nan, nan, nan, nan, nan, 0)
    return {
        "site": pair["site"],
        "depth": pair["depth_a"],
        "metric": metric.name,
        "convention": pair["convention"],
        "domain": pair["domain"],
        "a": pair["value_a"],
        "b": pair["value_b"],
        "change": found.value,
        "corrected": found.corrected,
        "scale": metric.scale,
        "low": found.low,
        "high": found.high,
        "std_error": found.std_error,
        "detectable": _detectable(found, metric.scale),
        "p_value": found.p_value,
        "p_adjusted": nan,
        "headline": _is_headline(pair),
    }


def _detectable(found: Difference, scale: str) -> float:
    if isnan(found.std_error):
        return nan
    effect = minimum_detectable_effect(found.std_error, found.blocks)
    return exp(effect) if scale == "log" else effect


def _is_headline(pair: dict[Any, Any]) -> bool:
    metric = CATALOG[pair["metric"]]
    in_family = metric.name in HEADLINE and pair["convention"] == metric.conventions[0]
    return in_family and pair["site"] == headline_site(metric)
