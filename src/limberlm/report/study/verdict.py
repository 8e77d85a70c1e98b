"""The verdict in words, computed from the paired comparisons with the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from limberlm.analysis.direction import RANK
from limberlm.report import words
from limberlm.report.study.changes import Change, Changes
from limberlm.report.study.data import Run, Stage

MEANING = (
    "Each interval is over probe sequences for fixed checkpoints; it says nothing about training seeds. "
    "A change is no judgement by itself: the outcomes below say what the model can still do."
)


@dataclass(frozen=True)
class Finding:
    """A stage against the base, for the headline metric. `found` is None where nothing can be said."""

    stage: str
    node: str
    ratio: float
    found: bool | None
    text: str


def findings(run: Run, changes: Changes) -> list[Finding]:
    """One finding for each stage of a run after its base, in order."""
    return [_finding(stage, changes.get(stage.node, "base")) for stage in run.stages if stage.index > 0]


def unmeasured(run: Run, changes: Changes) -> str:
    """The stages that the base is not compared with, in a sentence; empty if there is none, or no other."""
    names = [stage.label for stage in run.stages if stage.index > 0 and changes.get(stage.node, "base") is None]
    return f"Not compared with the base: {', '.join(names)}." if 0 < len(names) < len(run.stages) - 1 else ""


def summary(found: Sequence[Finding]) -> str:
    """The verdict's first sentence: where the run ended."""
    last = found[-1]
    if last.found is None:
        return f"Nothing can be concluded about effective rank after the last stage, {last.stage}."
    if not last.found:
        return f"After the last stage, {last.stage}, no change of effective rank from the base was found."
    return f"Effective rank ended {_size(last.ratio)} {'above' if last.ratio > 1 else 'below'} the base."


def seeds_sentence(run: Run, runs: Sequence[Run], changes: Changes) -> str:
    """How the change after the last stage differs between training seeds, which no interval covers."""
    siblings = [other for other in runs if other.chain == run.chain]
    if len(siblings) == 1:
        return "This chain was trained with one seed only."
    parts = []
    for other in siblings:
        change = changes.get(other.stages[-1].node, "base")
        parts.append(f"{'not measured' if change is None else change.text} (seed {other.seed})")
    return f"Over training seeds, the change from base after the last stage is {', '.join(parts)}."


def _finding(stage: Stage, change: Change | None) -> Finding:
    if change is None or math.isnan(change.value):
        return Finding(stage.label, stage.node, math.nan, None, "no comparison with the base could be made")
    if not change.known:
        text = f"{change.text}, without an interval, so nothing can be concluded"
        return Finding(stage.label, stage.node, change.value, None, text)
    span = f"95\u00a0% interval {change.interval}"
    if not change.found:
        text = f"no change found ({change.text}, {span}, which includes no change)"
        return Finding(stage.label, stage.node, change.value, False, text)
    text = f"{'up' if change.up else 'down'} {_size(change.value)} ({span}, which excludes no change)"
    return Finding(stage.label, stage.node, change.value, True, text)


def _size(ratio: float) -> str:
    return words.change(RANK, ratio).lstrip("+−")
