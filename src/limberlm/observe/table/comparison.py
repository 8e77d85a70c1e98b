"""Two checkpoints on the same probe: paired differences with intervals and adjusted p-values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
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
    benjamini_hochberg,
    holm,
    minimum_detectable_effect,
)
from limberlm.geometry.uncertainty import Centre, Scale, differences_of
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


Keys = tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A geometry as arrays [rows of its table], made once of what is compared with many others.

    `keys` are `KEYS` row by row; `replicates` [rows, blocks] are NaN in place of blocks that only other rows have.
    """

    geometry: Geometry
    keys: Keys
    depth: Floats
    value: Floats
    tokens: NDArray[np.int64]
    replicates: Floats

    @classmethod
    def of(cls, geometry: Geometry) -> LaidOut:
        """Lay a geometry out."""
        table = geometry.table
        keys = tuple(zip(*(table[key].tolist() for key in KEYS), strict=True))
        blocks = np.array(list(zip_longest(*table["replicates"], fillvalue=nan)), dtype=np.float64)
        depth, value, tokens = (table[name].to_numpy() for name in ("depth", "value", "n_tokens"))
        return cls(geometry, keys, depth, value, tokens, blocks.T.reshape(len(table), len(blocks)))

    def headline(self) -> LaidOut:
        """The rows fixed in advance alone."""
        rows = [place for place, key in enumerate(self.keys) if _is_headline(key)]
        return replace(
            self,
            keys=tuple(self.keys[place] for place in rows),
            **{name: getattr(self, name)[rows] for name in ("depth", "value", "tokens", "replicates")},
        )


def compare(a: Geometry | LaidOut, b: Geometry | LaidOut) -> Comparison:
    """Paired differences of every metric, b against a, from stored values alone: the jackknife of the difference.

    Raises:
        UserError: the two were not measured on the same probe under the same convention; names the field that
            differs and both of its values.
    """
    one, other = (each.geometry if isinstance(each, LaidOut) else each for each in (a, b))
    if difference := unlike(one, other):
        raise UserError(f"{difference}; measure both checkpoints in the same way")
    left, right = (each if isinstance(each, LaidOut) else LaidOut.of(each) for each in (a, b))
    shared = _shared(left.keys, right.keys)
    if not len(shared.ours):
        raise UserError("the two have no number in common; measure both with the same metrics and layers")
    _refuse_other_tokens(left, right, shared)
    found = _differences(left, right, shared)
    adjusted = np.full(len(shared.ours), nan)
    for chosen, adjust in ((shared.headline, holm), (~shared.headline, benjamini_hochberg)):
        adjusted[chosen] = adjust(found["p_value"][chosen])
    return Comparison(_table(left, right, shared, found, adjusted), one.manifest, other.manifest)


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


@dataclass(frozen=True, eq=False)
class _Shared:
    """The rows of metrics that two tables have in common, in the first one's order, and what their keys alone say."""

    ours: NDArray[np.intp]
    theirs: NDArray[np.intp]
    names: pd.DataFrame
    scale: tuple[Scale, ...]
    centre: tuple[Centre, ...]
    headline: NDArray[np.bool_]


@lru_cache(maxsize=8)  # the checkpoints of a study have few kinds of tables, and are compared by the thousand
def _shared(left: Keys, right: Keys) -> _Shared:
    places = {key: place for place, key in enumerate(right)}
    both = [(i, places[key]) for i, key in enumerate(left) if key in places and key[1] in CATALOG]
    keys = [left[i] for i, _ in both]
    metrics = [CATALOG[metric] for _, metric, _, _ in keys]
    return _Shared(
        np.array([i for i, _ in both], dtype=np.intp),
        np.array([j for _, j in both], dtype=np.intp),
        pd.DataFrame(keys, columns=KEYS).assign(scale=pd.Series([metric.scale for metric in metrics], dtype="str")),
        tuple(metric.scale for metric in metrics),
        tuple("value" if metric.interval == "value" else "corrected" for metric in metrics),
        np.array(list(map(_is_headline, keys)), dtype=bool),
    )


def _refuse_other_tokens(a: LaidOut, b: LaidOut, shared: _Shared) -> None:
    one, other = a.tokens[shared.ours], b.tokens[shared.theirs]
    for place in np.flatnonzero(one != other)[:1]:
        row = shared.names.iloc[place]
        raise UserError(
            f"n_tokens of {row['site']}, {row['convention']} differs: {one[place]} against {other[place]}; "
            "one checkpoint has states of zero norm there"
        )


def _table(a: LaidOut, b: LaidOut, shared: _Shared, found: dict[str, Floats], adjusted: Floats) -> pd.DataFrame:
    names = shared.names
    return pd.DataFrame(
        {
            "site": names["site"],
            "depth": a.depth[shared.ours],
            "metric": names["metric"],
            "convention": names["convention"],
            "domain": names["domain"],
            "a": a.value[shared.ours],
            "b": b.value[shared.theirs],
            "change": found["value"],
            "corrected": found["corrected"],
            "scale": shared.names["scale"],
            "low": found["low"],
            "high": found["high"],
            "std_error": found["std_error"],
            "detectable": found["detectable"],
            "p_value": found["p_value"],
            "p_adjusted": adjusted,
            "headline": shared.headline,
        }
    )


def _differences(a: LaidOut, b: LaidOut, shared: _Shared) -> dict[str, Floats]:
    """The differences of all rows, those of one scale, centre and set of blocks at once; NaN where undefined."""
    left, right = a.replicates[shared.ours], b.replicates[shared.theirs]
    # the blocks agree, so NaN on one side only means that this side has no interval
    unknown = np.isnan(left).all(axis=1, keepdims=True) | np.isnan(right).all(axis=1, keepdims=True)
    there: NDArray[np.bool_] = ~np.isnan(left) & ~unknown
    if left.shape != right.shape or not np.array_equal(there, ~np.isnan(right) & ~unknown):
        raise UserError("replicates: the two checkpoints were not measured on the same blocks; measure again")
    values = right - left
    log = np.array(shared.scale) == "log"
    theta = _on_scale(b.value[shared.theirs], log) - _on_scale(a.value[shared.ours], log)
    kinds: dict[tuple[Scale, Centre, bytes], list[int]] = {}
    for place, kind in enumerate(zip(shared.scale, shared.centre, map(bytes, there), strict=True)):
        kinds.setdefault(kind, []).append(place)
    found = {name: np.full(len(theta), nan) for name in _FIELDS}
    for (on, about, _), rows in kinds.items():
        kept = np.ascontiguousarray(values[rows][:, there[rows[0]]])
        each = differences_of(theta[rows], kept, scale=on, centre=about)
        each["detectable"] = _detectable(each["std_error"], kept.shape[1], on)
        for name, column in found.items():
            column[rows] = each[name]
    return found


def _on_scale(values: Floats, log: NDArray[np.bool_]) -> Floats:
    """On the jackknife's scale; NaN where undefined."""
    on_log: Floats = np.log(np.where(log & (values > 0), values, nan))
    return np.where(log, on_log, values)


def _detectable(std_error: Floats, blocks: int, scale: str) -> Floats:
    if np.isnan(std_error).all():
        return std_error
    effect = minimum_detectable_effect(1.0, blocks) * std_error
    return np.exp(effect) if scale == "log" else effect


def _is_headline(key: tuple[str, str, str, str]) -> bool:
    site, name, convention, _ = key
    return name in HEADLINE and convention == CATALOG[name].conventions[0] and site == headline_site(CATALOG[name])
