"""Outcomes that several checkpoints of a chain make together: retention, win rates, samples to a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

_NAMED = ("outcome", "split", "task", "items")

# judge -> the outcome it compares per item, and its sign: higher is better
WINS: dict[Judge, tuple[str, int]] = {"verifier": ("accuracy", 1), "likelihood": ("loss", -1)}


@dataclass(frozen=True)
class Scored:
    """A checkpoint's outcomes, laid out once for all that its checkpoint is held against.

    Attributes:
        items: the per-item scores [items] of each task, by outcome and split.
        readings: the rows that curves are made of.
        timed: whether its samples to a threshold are measured already.

    """

    items: dict[tuple[str, str], dict[str, Any]]
    readings: list[Row]
    timed: bool

    @classmethod
    def of(cls, outcomes: pd.DataFrame) -> Scored:
        """Lay a table out."""
        items: dict[tuple[str, str], dict[str, Any]] = {}
        for outcome, split, task, own in zip(*(outcomes[name].tolist() for name in _NAMED), strict=True):
            items.setdefault((outcome, split), {})[task] = own
        curves = outcomes[outcomes["outcome"] == LOSS]
        columns = (curves[name].tolist() for name in curves.columns)
        readings = [dict(zip(curves.columns, values, strict=True)) for values in zip(*columns, strict=True)]
        return cls(items, readings, any(outcome == SAMPLES_TO_THRESHOLD for outcome, _ in items))

    def scores(self, names: Sequence[str], split: str = "in_domain") -> dict[str, Any]:
        """The per-item scores of each task, [items] each."""
        return {task: own for name in names for task, own in self.items.get((name, split), {}).items()}


def derived_rows(path: Sequence[Scored], tasks: Sequence[str | None]) -> Iterator[Row]:
    """The rows of the last checkpoint of a path that need the ones before it.

    Args:
        path: the outcomes of every checkpoint of it, base first.
        tasks: what each stage of it trained (one less than checkpoints).

    """
    if len(path) > 1:
        yield from _retention(path, tasks)
        yield from _wins(path[0], path[-1])
    yield from _times(path[0], path[-1])


def _retention(path: Sequence[Scored], tasks: Sequence[str | None]) -> Iterator[Row]:
    for name, (scores, kind) in RETENTION.items():
        changes = backward_transfer([each.scores(SCORES[scores]) for each in path], tasks)
        if changes is not None:
            yield outcome_row(name, "earlier stages", changes, kind=kind)


def _wins(base: Scored, own: Scored) -> Iterator[Row]:
    for judge, (outcome, sign) in WINS.items():
        scores, other = (each.scores((outcome,), OUT_OF_DOMAIN) for each in (own, base))
        for task in (task for task in scores if task in other):
            yield win_row(task, sign * scores[task], sign * other[task], judge=judge)


def _times(base: Scored, own: Scored) -> Iterator[Row]:
    """By the base's own loss at half its budget, where the settings name no threshold."""
    if not own.timed:
        yield from threshold_rows(own.readings, threshold_from(base.readings))
