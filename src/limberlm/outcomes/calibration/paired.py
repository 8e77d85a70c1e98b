"""Two checkpoints on the same questions: which of them is better calibrated, and by how much?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from limberlm.errors import UserError
from limberlm.outcomes.calibration.binned import Binned, Floats
from limberlm.outcomes.calibration.intervals import RESAMPLES, error_spread, scored_row, student_point
from limberlm.outcomes.calibration.names import SOURCES
from limberlm.outcomes.calibration.outcomes import OUTCOMES
from limberlm.outcomes.table import Row, item_changes, outcome_row

ERRORS = {"ece": "confidence", "ece_adaptive": "confidence", "ece_tempered": "confidence_tempered"}
"""The calibration errors, and the outcome whose items are the confidences they are computed from."""

Key = tuple[str, str, str, str]  # outcome, source, task, split
Rows = dict[Key, Mapping[str, Any]]


def paired_calibration(
    before: Sequence[Mapping[str, Any]],
    after: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Row]:
    """Rows `NAME_SOURCE_change`: each calibration outcome of one checkpoint minus that of another.

    Paired by question, so what makes a question hard drops out. Calibration errors are recomputed with the questions
    resampled for both checkpoints together, and their interval is change +- t SE. It is for the error that so many
    questions show on average, bias included; a change of the null beside it (`ece_null_SOURCE_change`) warns that the
    bias changed too. Whether calibration changed is asked of `ece2_debiased_SOURCE_change`, which has no bias. All else
    is a mean of per-question differences with Student's interval, that of Bonett and Price for `correct`. Where either
    checkpoint has no interval there is none. Equal on every question: the interval is [0, 0], but for `correct`.

    Args:
        before: rows of `calibration_outcomes` of the earlier checkpoint, or the same read back from a table; rows of
            other outcomes are passed over.
        after: those of the later one.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        UserError: the two share no outcome, or differ in questions or settings.

    """
    earlier, later = _by_key(before), _by_key(after)
    shared = [key for key in later if key in earlier]
    if not shared:
        raise UserError(
            "calibration: the two checkpoints share no outcome, task and split; measure both in the same way"
        )
    return [_change(key, earlier, later, seed, resamples) for key in shared]


def _change(key: Key, earlier: Rows, later: Rows, seed: int, resamples: int) -> Row:
    outcome, _, task, split = key
    one, other = earlier[key], later[key]
    change = item_changes(one, other)
    settings = json.loads(one["settings"])
    group = int(settings.get("tokens_per_passage", 1))
    named: Any = {"split": split, "settings": settings}
    name = f"{one['outcome']}_change"
    row = scored_row(name, task, change, group=group, **named)
    if outcome == "correct" and (group == 1 or not change.any()):
        bounds = outcome_row(name, task, change[::group].tolist(), kind="paired")
        return row | {"low": bounds["low"], "high": bounds["high"]}
    if any(math.isnan(each["low"]) for each in (one, other)):
        return row | dict.fromkeys(("std_error", "low", "high"), math.nan)
    if outcome in ERRORS:
        pair = [_binned(rows, key, settings["bins"]) for rows in (earlier, later)]
        error = error_spread(pair, group, resamples, seed)[-1]
        reach = student_point(len(change) // group - 1) * error
        row |= {"std_error": error, "low": row["value"] - reach, "high": row["value"] + reach}
    return row


def _binned(rows: Rows, key: Key, bins: int) -> Binned:
    """The answers behind a calibration error, from the rows that hold them."""
    outcome, source, task, split = key
    parts = []
    for name in (ERRORS[outcome], "correct"):
        if (name, source, task, split) not in rows:
            raise UserError(f"{outcome}_{source} on {task}: needs the rows {name}_{source} of the same checkpoint too")
        parts.append(_items(rows[name, source, task, split]))
    return (Binned.equal_mass if outcome == "ece_adaptive" else Binned.equal_width)(parts[0], parts[1], bins)


def _by_key(rows: Sequence[Mapping[str, Any]]) -> Rows:
    return {key: row for row in rows for key in _keys(row)}


def _keys(row: Mapping[str, Any]) -> Iterator[Key]:
    for source in SOURCES:
        outcome = str(row["outcome"]).removesuffix(f"_{source}")
        if outcome != row["outcome"] and outcome in OUTCOMES:
            yield outcome, source, str(row["task"]), str(row["split"])


def _items(row: Mapping[str, Any]) -> Floats:
    return np.asarray(row["items"], dtype=np.float64)
