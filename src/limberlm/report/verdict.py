"""The verdict in words, computed from the paired comparisons with the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from limberlm.observe.sites import BAND
from limberlm.report import words
from limberlm.report.data import Run, Stage

HEADLINE = "effective_rank"
MEANING = (
    "Each interval is over probe sequences for fixed checkpoints; it says nothing about training seeds. "
    "A change is no judgement by itself: the outcomes below say what the model can still do."
)


@dataclass(frozen=True)
class Finding:
    """A stage against the base, for the headline metric. `found` is None where nothing can be said."""

    stage: str
    ratio: float
    found: bool | None
    text: str


def headline_change(comparisons: pd.DataFrame, stage: Stage, metric: str = HEADLINE) -> pd.Series | None:
    """The comparison of a stage with the base at the depth band under `rms`; None if there is none."""
    rows = comparisons[
        (comparisons["node"] == stage.node)
        & (comparisons["against"] == "base")
        & (comparisons["site"] == BAND)
        & (comparisons["convention"] == "rms")
        & comparisons["metric"].isin([metric, metric + words.CORRECTED])
    ]
    return None if rows.empty else rows.iloc[0]


def findings(run: Run, comparisons: pd.DataFrame) -> list[Finding]:
    """One finding for each stage of a run after its base, in order."""
    return [_finding(stage, headline_change(comparisons, stage)) for stage in run.stages if stage.index > 0]


def summary(found: Sequence[Finding]) -> str:
    """The verdict's first sentence: where the run ended."""
    last = found[-1]
    if last.found is None:
        return f"Nothing can be concluded about effective rank after the last stage, {last.stage}."
    if not last.found:
        return f"After the last stage, {last.stage}, no change of effective rank from the base was found."
    return f"Effective rank ended {_size(last.ratio)} {'above' if last.ratio > 1 else 'below'} the base."


def seeds_sentence(run: Run, runs: Sequence[Run], comparisons: pd.DataFrame) -> str:
    """How the change after the last stage differs between training seeds, which no interval covers."""
    siblings = [other for other in runs if other.chain == run.chain]
    if len(siblings) == 1:
        return "This chain was trained with one seed only."
    parts = []
    for other in siblings:
        row = headline_change(comparisons, other.stages[-1])
        shown = "not measured" if row is None else words.change(HEADLINE, float(row["corrected"]))
        parts.append(f"{shown} (seed {other.seed})")
    return f"Over training seeds, the change from base after the last stage is {', '.join(parts)}."


def _finding(stage: Stage, row: pd.Series | None) -> Finding:
    if row is None or math.isnan(row["corrected"]):
        return Finding(stage.label, math.nan, None, "no comparison with the base could be made")
    value, low, high = float(row["corrected"]), float(row["low"]), float(row["high"])
    if math.isnan(low) or math.isnan(high):
        text = f"{words.change(HEADLINE, value)}, without an interval, so nothing can be concluded"
        return Finding(stage.label, value, None, text)
    span = f"95\u00a0% interval {words.change_interval(HEADLINE, low, high)}"
    if low <= 1.0 <= high:
        text = f"no change found ({words.change(HEADLINE, value)}, {span}, which includes no change)"
        return Finding(stage.label, value, False, text)
    text = f"{'up' if value > 1 else 'down'} {_size(value)} ({span}, which excludes no change)"
    return Finding(stage.label, value, True, text)


def _size(ratio: float) -> str:
    return words.change(HEADLINE, ratio).lstrip("+−")
