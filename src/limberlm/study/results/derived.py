"""Outcomes that several checkpoints of a chain make together: retention, win rates, samples to a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd

from limberlm.outcomes.plasticity import threshold_from, threshold_rows
from limberlm.outcomes.plasticity.threshold import OUTCOME as SAMPLES_TO_THRESHOLD
from limberlm.outcomes.retention import backward_transfer
from limberlm.outcomes.samples import OUT_OF_DOMAIN
from limberlm.outcomes.table import Kind, outcome_row
from limberlm.outcomes.win_rate import Judge, win_row

Row = dict[str, Any]
Scores = Literal["share", "loss"]

# what a score matrix is made of
SCORES: dict[Scores, tuple[str, ...]] = {"share": ("accuracy", "pair_accuracy"), "loss": ("loss",)}

# retention row -> the scores it is computed from, and what their differences are
RETENTION: dict[str, tuple[Scores, Kind]] = {"retention": ("share", "paired"), "retention_loss": ("loss", "mean")}

# judge -> the outcome it compares per item, and its sign: higher is better
WINS: dict[Judge, tuple[str, int]] = {"verifier": ("accuracy", 1), "likelihood": ("loss", -1)}


def derived_rows(path: Sequence[Sequence[Row]], tasks: Sequence[str | None]) -> Iterator[Row]:
    """The rows of the last checkpoint of a path that need the ones before it.

    Args:
        path: the outcomes of every checkpoint of it, base first.
        tasks: what each stage of it trained (one less than checkpoints).

    """
    if len(path) > 1:
        yield from _retention(path, tasks)
        yield from _wins(path[0], path[-1])
    yield from _times(path[0], path[-1])


def rows_of(outcomes: pd.DataFrame) -> list[Row]:
    """The rows of a table, which are walked through many times."""
    columns = (outcomes[name].tolist() for name in outcomes.columns)
    return [dict(zip(outcomes.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def items_of(outcomes: Sequence[Row], names: Sequence[str], split: str = "in_domain") -> dict[str, Any]:
    """The per-item scores of each task, [items] each."""
    return {row["task"]: row["items"] for row in outcomes if row["outcome"] in names and row["split"] == split}


def _retention(path: Sequence[Sequence[Row]], tasks: Sequence[str | None]) -> Iterator[Row]:
    for name, (scores, kind) in RETENTION.items():
        changes = backward_transfer([items_of(rows, SCORES[scores]) for rows in path], tasks)
        if changes is not None:
            yield outcome_row(name, "earlier stages", changes, kind=kind)


def _wins(base: Sequence[Row], own: Sequence[Row]) -> Iterator[Row]:
    for judge, (outcome, sign) in WINS.items():
        scores, other = (items_of(rows, (outcome,), OUT_OF_DOMAIN) for rows in (own, base))
        for task in (task for task in scores if task in other):
            yield win_row(task, sign * scores[task], sign * other[task], judge=judge)


def _times(base: Sequence[Row], own: Sequence[Row]) -> Iterator[Row]:
    """By the base's own loss at half its budget, where the settings name no threshold."""
    if all(row["outcome"] != SAMPLES_TO_THRESHOLD for row in own):
        yield from threshold_rows(own, threshold_from(base))
