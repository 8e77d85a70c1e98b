"""The phases that were found in a stage, as the report needs them: read from `phases.json`, never sought again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limberlm.analysis.trace import WHOLE
from limberlm.report.trace.data import Stage, Trace
from limberlm.report.trace.lines import ALPHA_LINE, RANK_LINE
from limberlm.report.trace.marks import Marks, Span, Turn

TURNS = {"turns": RANK_LINE, "alpha_turns": ALPHA_LINE}
"""Where turning points are kept, and the line that they lie on."""


@dataclass(frozen=True)
class StagePhases:
    """What `phases.json` says of one stage of one trace; `record` is empty where it says nothing."""

    record: Mapping[str, Any]
    stage: Stage

    @property
    def pattern(self) -> str:
        """Such as "F R F"; empty if no phase was found."""
        return str(self.record.get("pattern") or "")

    @property
    def answer(self) -> str:
        """What the pattern is called."""
        return str(self.record.get("answer") or "")

    @property
    def verdict(self) -> str:
        """The answer in a sentence, about this run."""
        return str(self.record.get("verdict") or "")

    @property
    def swings(self) -> list[Mapping[str, Any]]:
        """The stretches."""
        return list(self.record.get("swings") or [])

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stretch is called."""
        return tuple(str(swing["label"]) for swing in self.swings)

    def t(self, value: float) -> float:
        """A place in the record on the axis of the stage: the record counts steps or tokens."""
        checkpoints = self.stage.checkpoints
        return float(np.interp(value, checkpoints[self._unit].astype(float), checkpoints["t"]))

    @property
    def _unit(self) -> str:
        checkpoints = self.stage.checkpoints
        seen = [point[0] for point in self.record.get("fit") or []] or [swing["end"] for swing in self.swings]
        counted = [name for name in ("step", "tokens", "x") if checkpoints[name].notna().all()]
        return min(counted, key=lambda name: abs(checkpoints[name].astype(float).max() - max(seen))) if seen else "step"

    def spans(self) -> list[Span]:
        """The phases, neighbours that fall and rise apart."""
        return [
            Span(str(swing["label"]), str(swing["direction"]), self.t(swing["start"]), self.t(swing["end"]))
            for swing in self.swings
        ]

    def turns(self, run: int) -> list[Turn]:
        """The turning points of effective rank, and alpha's own."""
        return [
            Turn(self.t(turn["step"]), self.t(turn["low"]), self.t(turn["high"]), line, run)
            for field, line in TURNS.items()
            for turn in self.record.get(field) or []
        ]


def found_in(trace: Trace, stage: Stage) -> StagePhases:
    """What was found in a stage of a trace."""
    record = (trace.phases.get("stages") or trace.phases).get(stage.name) or {}
    return StagePhases(record if isinstance(record, dict) else {}, stage)


def found_in_whole(trace: Trace) -> str:
    """The verdict on all stages as one curve, where phases were sought in that; empty if not."""
    record = (trace.phases.get("stages") or {}).get(WHOLE) or {}
    return str(record.get("verdict") or "")


def agree(found: Sequence[StagePhases]) -> bool:
    """Whether phases were sought in all, and the patterns and the labels are the same."""
    return all(each.record for each in found) and len({(each.pattern, *each.labels) for each in found}) == 1


def marks_of(runs: Sequence[Trace], stages: Sequence[Stage]) -> Marks:
    """What is drawn over the lines: phases are shaded for one run only, as boundaries are never averaged."""
    found = [found_in(trace, stage) for trace, stage in zip(runs, stages, strict=True)]
    turns = [turn for run, each in enumerate(found) for turn in each.turns(run)]
    return Marks(found[0].spans() if len(runs) == 1 else [], turns, _events(runs[0], stages[0]), RANK_LINE)


def _events(trace: Trace, stage: Stage) -> list[tuple[float, str]]:
    """The end of the learning-rate warmup, where the series names it: a step of the first stage."""
    step = (trace.series.get("phases") or {}).get("warmup_end")
    if step is None or stage.name != trace.stages()[0].name:
        return []
    checkpoints = stage.checkpoints
    t = float(np.interp(step, checkpoints["step"].astype(float), checkpoints["t"]))
    return [(t, f"end of learning-rate warmup (step {step:g})")]
