"""Two checkpoints on the same probe: paired differences with intervals and adjusted p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.errors import UserError
from limberlm.geometry import (
    CATALOG,
    HEADLINE,
    Metric,
    benjamini_hochberg,
    holm,
    minimum_detectable_effect,
)
from limberlm.geometry.uncertainty import Centre, differences_of
from limberlm.observe.table.geometry import Geometry, headline_site

Floats = NDArray[np.float64]

KEYS = ["site", "metric", "convention", "domain"]
_FIELDS = ["value", "corrected", "std_error", "low", "high", "p_value", "detectable"]


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
    if pairs.empty:
        raise UserError("the two have no number in common; measure both with the same metrics and layers")
    table = _table(pairs)
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
    """The rows that both have, in a's order: a's columns with `_a`, b's with `_b`."""
    left, right = (list(zip(*(one.table[key].tolist() for key in KEYS), strict=True)) for one in (a, b))
    places = {key: place for place, key in enumerate(right)}
    shared = [key in places for key in left]
    ours = a.table[shared]
    theirs = b.table.iloc[[places[key] for key, known in zip(left, shared, strict=True) if known]]
    read = ["depth", "value", "replicates", "n_tokens"]
    parts = (each[read].reset_index(drop=True).add_suffix(end) for each, end in ((ours, "_a"), (theirs, "_b")))
    pairs = pd.concat([ours[KEYS].reset_index(drop=True), *parts], axis=1)
    unlike = pairs[pairs["n_tokens_a"] != pairs["n_tokens_b"]]
    if len(unlike):
        row = unlike.iloc[0]
        raise UserError(
            f"n_tokens of {row['site']}, {row['convention']} differs: {row['n_tokens_a']} against "
            f"{row['n_tokens_b']}; one checkpoint has states of zero norm there"
        )
    return pairs[pairs["metric"].isin(list(CATALOG))].reset_index(drop=True)


def _table(pairs: pd.DataFrame) -> pd.DataFrame:
    metrics = [CATALOG[name] for name in pairs["metric"]]
    scale = pd.Series([metric.scale for metric in metrics], dtype="str")
    centre: list[Centre] = ["value" if metric.interval == "value" else "corrected" for metric in metrics]
    found = _differences(pairs, scale, centre)
    return pd.DataFrame(
        {
            "site": pairs["site"],
            "depth": pairs["depth_a"],
            "metric": pairs["metric"],
            "convention": pairs["convention"],
            "domain": pairs["domain"],
            "a": pairs["value_a"],
            "b": pairs["value_b"],
            "change": found["value"],
            "corrected": found["corrected"],
            "scale": scale,
            "low": found["low"],
            "high": found["high"],
            "std_error": found["std_error"],
            "detectable": found["detectable"],
            "p_value": found["p_value"],
            "p_adjusted": nan,
            "headline": [_is_headline(*pair) for pair in zip(metrics, pairs["convention"], pairs["site"], strict=True)],
        }
    )


def _differences(pairs: pd.DataFrame, scale: pd.Series, centre: Sequence[Centre]) -> dict[str, Floats]:
    """The differences of all rows, those of one scale, centre and set of blocks at once; NaN where undefined."""
    left, right = _replicates(pairs["replicates_a"]), _replicates(pairs["replicates_b"])
    # the blocks agree, so NaN on one side only means that this side has no interval
    unknown = np.isnan(left).all(axis=1, keepdims=True) | np.isnan(right).all(axis=1, keepdims=True)
    there: NDArray[np.bool_] = ~np.isnan(left) & ~unknown
    if left.shape != right.shape or not np.array_equal(there, ~np.isnan(right) & ~unknown):
        raise UserError("replicates: the two checkpoints were not measured on the same blocks; measure again")
    values = right - left
    theta = _on_scale(pairs["value_b"], scale) - _on_scale(pairs["value_a"], scale)
    kinds = pd.DataFrame({"scale": scale, "centre": centre, "blocks": [row.tobytes() for row in there]})
    found = {name: np.full(len(pairs), nan) for name in _FIELDS}
    for rows in kinds.groupby(["scale", "centre", "blocks"]).indices.values():
        on, about = scale[rows[0]], centre[rows[0]]
        kept = np.ascontiguousarray(values[rows][:, there[rows[0]]])
        each = differences_of(theta[rows], kept, scale=on, centre=about)
        each["detectable"] = _detectable(each["std_error"], kept.shape[1], on)
        for name, column in found.items():
            column[rows] = each[name]
    return found


def _replicates(column: pd.Series) -> Floats:
    """[rows, blocks], with NaN in place of blocks that only other rows have."""
    return np.array(list(zip_longest(*column, fillvalue=nan)), dtype=np.float64).T.reshape(len(column), -1)


def _on_scale(values: pd.Series, scale: pd.Series) -> Floats:
    """On the jackknife's scale; NaN where undefined."""
    log = (scale == "log").to_numpy()
    plain = values.to_numpy(np.float64)
    return np.where(log, np.log(np.where(log & (plain > 0), plain, nan)), plain)


def _detectable(std_error: Floats, blocks: int, scale: str) -> Floats:
    if np.isnan(std_error).all():
        return std_error
    effect = minimum_detectable_effect(1.0, blocks) * std_error
    return np.exp(effect) if scale == "log" else effect


def _is_headline(metric: Metric, convention: str, site: str) -> bool:
    in_family = metric.name in HEADLINE and convention == metric.conventions[0]
    return in_family and site == headline_site(metric)
