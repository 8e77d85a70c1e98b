"""From a criterion and two checkpoints to what it is decided on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite, log1p
from typing import Any, Literal

import numpy as np
import pandas as pd

from limberlm.analysis.gate.judgement import Case
from limberlm.analysis.gate.paired import Paired
from limberlm.analysis.gate.policy import Criterion
from limberlm.analysis.gate.side import Side
from limberlm.errors import UserError
from limberlm.geometry import CATALOG, Undefined, pseudo_values
from limberlm.observe import unlike
from limberlm.outcomes.table import item_changes

Scale = Literal["log", "linear"]
UNITS: dict[str, Literal["tokens", "items"]] = {"metric": "tokens", "outcome": "items"}


class NotComparable(Exception):
    """Why a checkpoint cannot be held against the baseline."""


def case_of(criterion: Criterion, baseline: Side, candidate: Side, noise: Sequence[Side] = ()) -> Case:
    """The differences of a criterion, or the reason why the candidate has none.

    Raises:
        UserError: the baseline does not have the number, or its noise was measured otherwise: there is nothing to hold
            a candidate against.
    """
    try:
        own = _number(criterion, baseline)
    except NotComparable as error:
        raise UserError(f"baseline {baseline.name} {error}; measure it, or drop the criterion") from None
    value, unit = float(own["value"]), UNITS["metric" if criterion.metric else "outcome"]
    margin = _margin(criterion, value)
    case = Case(criterion.name, criterion.worse, _scale(criterion), margin, (), value, None, int(own["size"]), unit)
    try:
        other = _number(criterion, candidate)
        case = replace(case, candidate=float(other["value"]))
        case = replace(case, paired=_paired(criterion, baseline, own, candidate, other))
    except NotComparable as error:
        return replace(case, reason=f"the candidate {error}")
    return replace(case, noise=tuple(_floors(criterion, baseline, own, noise)))


def _number(criterion: Criterion, side: Side) -> dict[Any, Any]:
    """The row that holds a criterion's number, with its `value` and the `size` of what it was read from."""
    table = _table(criterion, side)
    if table is None:
        raise NotComparable(f"has no {'geometry' if criterion.metric else 'outcomes'} to read {criterion.name} in")
    rows = table[_matching(table, criterion)]
    if len(rows) == 0:
        raise NotComparable(f"has no {criterion.name}")
    if len(rows) > 1:
        raise UserError(f"{side.name}: {len(rows)} rows are {criterion.name}; say which with `step`")
    row: dict[Any, Any] = rows.iloc[0].to_dict()
    if criterion.metric:
        row["size"] = row["n_tokens"]
    else:
        items = np.asarray(row["items"], dtype=np.float64)  # every item counts alike, whatever the row's own weights
        row |= {"value": items.mean() if len(items) else np.nan, "size": len(items), "items": items}
    if not isfinite(row["value"]):
        raise NotComparable(f"has no value of {criterion.name}: {_why(criterion, side)}")
    return row


def _why(criterion: Criterion, side: Side) -> str:
    """Why a number is none, as far as that is known."""
    if criterion.metric is None or side.geometry is None:
        return "it has items without a score"
    metric, site, convention = criterion.read_at
    return str(side.geometry.manifest["undefined"].get(f"{site}/{convention}/{metric}", "it is no number"))


def _table(criterion: Criterion, side: Side) -> pd.DataFrame | None:
    if criterion.outcome:
        return side.outcomes
    return None if side.geometry is None else side.geometry.table


def _matching(table: pd.DataFrame, criterion: Criterion) -> Any:
    if criterion.metric:
        wanted: dict[str, Any] = dict(zip(("metric", "site", "convention"), criterion.read_at, strict=True))
        wanted["domain"] = "all"
    else:
        wanted = {"outcome": criterion.outcome, "task": criterion.task, "split": criterion.split_read}
        wanted |= {} if criterion.step is None else {"step": criterion.step}
    same = [(table[name] == value).fillna(False).to_numpy(bool) for name, value in wanted.items()]
    return np.logical_and.reduce(same)


def _paired(criterion: Criterion, a: Side, own: dict[Any, Any], b: Side, other: dict[Any, Any]) -> Paired:
    if criterion.metric is None or a.geometry is None or b.geometry is None:
        return _items(own, other)
    if difference := unlike(a.geometry, b.geometry):
        raise NotComparable(f"was measured otherwise: {difference}")
    if own["n_tokens"] != other["n_tokens"]:
        raise NotComparable(f"has {other['n_tokens']:,} tokens there, the baseline {own['n_tokens']:,}")
    centre: Literal["value", "corrected"] = "value" if CATALOG[criterion.metric].interval == "value" else "corrected"
    before, after = ((row["value"], row["replicates"]) for row in (own, other))
    try:
        values = pseudo_values(*before, *after, scale=_scale(criterion), centre=centre)
    except (Undefined, ValueError) as error:
        raise NotComparable(f"cannot be held against the baseline: {error}") from None
    if not np.isfinite(values).all():
        raise NotComparable("cannot be held against the baseline: without one of the blocks it has no value")
    return Paired("blocks", tuple(values.tolist()))


def _items(own: dict[Any, Any], other: dict[Any, Any]) -> Paired:
    own, other = _in_order(own), _in_order(other)
    if own["named"] != other["named"]:
        raise NotComparable("was asked other items than the baseline; ask both the same")
    try:
        changes = item_changes(own, other)
    except UserError as error:
        raise NotComparable(f"cannot be held against the baseline: {error}") from None
    answers = all(np.isin(row["items"], (0, 1)).all() for row in (own, other))
    return Paired("counts" if answers else "items", tuple(changes.tolist()))


def _in_order(row: dict[Any, Any]) -> dict[Any, Any]:
    """A row of outcomes with its items by name, where they have names."""
    names = row.get("names")
    if not isinstance(names, list):
        return row | {"named": None}
    order = sorted(range(len(names)), key=names.__getitem__)
    return row | {"items": row["items"][order], "named": [names[place] for place in order]}


def _floors(criterion: Criterion, baseline: Side, own: dict[Any, Any], noise: Sequence[Side]) -> list[float]:
    """How far each re-measured baseline lies from the baseline, either way."""
    found = []
    for side in noise:
        if _table(criterion, side) is None:
            continue
        try:
            values = _paired(criterion, baseline, own, side, _number(criterion, side)).values
        except NotComparable as error:
            raise UserError(f"noise {side.name} {error}; measure it as the baseline") from None
        found.append(abs(float(np.mean(values))))
    return found


def _scale(criterion: Criterion) -> Scale:
    return CATALOG[criterion.metric].scale if criterion.metric else "linear"


def _margin(criterion: Criterion, value: float) -> float:
    """The policy's margin on the scale of decisions."""
    share, scale = criterion.share, _scale(criterion)
    if (scale == "log" and value <= 0) or (share is not None and value == 0):
        raise UserError(f"{criterion.name}: the baseline is {value:g}, of which no margin is a share")
    if scale == "log":
        return log1p(float(criterion.margin) / value if share is None else share)
    return float(criterion.margin) if share is None else share * abs(value)
