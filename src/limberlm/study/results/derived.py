"""Outcomes that several checkpoints of a chain make together: retention, win rates, samples to a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pandas as pd

from limberlm.outcomes.plasticity import threshold_from, threshold_rows
from limberlm.outcomes.plasticity.curve import LOSS
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


def derived_rows(tables: Sequence[pd.DataFrame], tasks: Sequence[str | None]) -> Iterator[Row]:
    """The rows of the last checkpoint of a path that need the ones before it.

    Args:
        tables: the outcomes of every checkpoint of the path, base first.
        tasks: what each stage of it trained (one less than tables).

    """
    if len(tables) > 1:
        yield from _retention(tables, tasks)
        yield from _wins(tables[0], tables[-1])
    yield from _times(tables[0], tables[-1])


def items_of(outcomes: pd.DataFrame, names: Sequence[str], split: str = "in_domain") -> dict[str, Any]:
    """The per-item scores of each task, [items] each."""
    columns = (outcomes[name].tolist() for name in ("outcome", "split", "task", "items"))
    rows = zip(*columns, strict=True)  # a hundred times as fast as a mask, and every pair of checkpoints asks
    return {task: items for outcome, own, task, items in rows if outcome in names and own == split}


def _retention(tables: Sequence[pd.DataFrame], tasks: Sequence[str | None]) -> Iterator[Row]:
    for name, (scores, kind) in RETENTION.items():
        changes = backward_transfer([items_of(table, SCORES[scores]) for table in tables], tasks)
        if changes is not None:
            yield outcome_row(name, "earlier stages", changes, kind=kind)


def _wins(base: pd.DataFrame, own: pd.DataFrame) -> Iterator[Row]:
    for judge, (outcome, sign) in WINS.items():
        scores, other = (items_of(table, (outcome,), OUT_OF_DOMAIN) for table in (own, base))
        for task in (task for task in scores if task in other):
            yield win_row(task, sign * scores[task], sign * other[task], judge=judge)


def _times(base: pd.DataFrame, own: pd.DataFrame) -> Iterator[Row]:
    """By the base's own loss at half its budget, where the settings name no threshold."""
    if not (own["outcome"] == SAMPLES_TO_THRESHOLD).any():
        yield from threshold_rows(_records(own), threshold_from(_records(base)))


def _records(table: pd.DataFrame) -> list[Row]:
    """The rows that curves are made of."""
    rows = table[table["outcome"] == LOSS]
    columns = (rows[name].tolist() for name in table.columns)
    return [dict(zip(table.columns, values, strict=True)) for values in zip(*columns, strict=True)]
