"""Stages after pretraining side by side: one line through all of them, every stage of the same width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.direction import ALPHA, HEAD_REMOVED, RANK
from limberlm.analysis.wording import short
from limberlm.report import words
from limberlm.report.drawing import Figure
from limberlm.report.trace.data import Stage
from limberlm.report.trace.lines import ALPHA_LINE, RANK_LINE, Line, metric_run, outcome_lines
from limberlm.report.trace.marks import Marks, Span
from limberlm.report.trace.panels import Panel, in_words, stack
from limberlm.report.trace.stages import Chain, tried


@dataclass(frozen=True)
class StageAxis:
    """Every stage takes the same width, its steps on its own logarithmic axis; `stages` after the start, in order."""

    stages: Sequence[Stage]
    start: str

    def at(self, values: Iterable[float]) -> NDArray[np.float64]:
        """Values are places already."""
        return np.asarray(list(values), dtype=np.float64)

    def place(self, number: int, t: Iterable[float]) -> NDArray[np.float64]:
        """The places of a stage's checkpoints, `number` its place among the stages."""
        axis = self.stages[number].axis
        first, last = axis.at([0.0, axis.most])
        share: NDArray[np.float64] = (axis.at(t) - first) / max(last - first, 1e-12)
        return number + share

    def say(self, value: float) -> str:
        """A place in words."""
        number = min(max(math.ceil(value) - 1, 0), len(self.stages) - 1)
        stage = self.stages[number]
        if value <= 0:
            return f"the start ({self.start})"
        nearest = int(np.argmin(np.abs(self.place(number, stage.checkpoints["t"]) - value)))
        return f"{stage.name}, step {words.count(stage.checkpoints['step'].iloc[nearest])}"

    def layout(self) -> dict[str, Any]:
        """Plotly's settings: a tick at the start and at the end of every stage."""
        ends = [f"{stage.name}<br>{short(stage.checkpoints['step'].max())}" for stage in self.stages]
        return {
            "title": {"text": "Stages in training order (steps within each on a logarithmic axis)"},
            "tickvals": list(range(len(self.stages) + 1)),
            "ticktext": [self.start, *ends],
            "tickangle": 0,
            "range": [-0.06, len(self.stages) + 0.06],
        }


def side_by_side(chain: Chain) -> tuple[Figure | None, str]:
    """The figure of all stages, and what it shows in words."""
    panels, axis, marks = stage_panels(chain)
    return stack(panels, axis, marks), in_words(panels, axis, Marks())


def stage_panels(chain: Chain) -> tuple[list[Panel], StageAxis, Marks]:
    """Effective rank, alpha-ReQ and pass@k through all stages, every second of which is shaded."""
    axis = StageAxis(chain.stages, chain.before.name if chain.before else "start")
    marks = Marks([Span(s.name, "", i, i + 1) for i, s in enumerate(chain.stages) if i % 2], [], [])

    def metric(name: str, title: str, position: int) -> Line:
        runs = [metric_run(chain.trace, stage, name) for stage in chain.all]
        return Line(title, [_joined(chain, axis, runs)], position)

    tries = [line for k, name in enumerate(tried(chain.trace), start=1) for line in _tries(chain, axis, name, k)]
    panels = [
        Panel("Effective rank", [metric(RANK, RANK_LINE, 1)], 220, log=True),
        Panel("alpha-ReQ", [metric(ALPHA, ALPHA_LINE, 2)], 170),
        Panel("Effective rank<br>without the top 8", [metric(HEAD_REMOVED, "top 8 removed", 3)], 170, log=True),
        Panel("pass@k", tries, 220),
    ]
    return panels, axis, marks


def _joined(chain: Chain, axis: StageAxis, runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Runs of all stages (the start's first) on the common axis; of the start its last checkpoint alone."""
    parts = []
    for stage, run in zip(chain.all, runs, strict=True):
        if stage is chain.before:
            parts.append(run.tail(1).assign(t=0.0))
        else:
            parts.append(run.assign(t=axis.place(chain.stages.index(stage), run["t"])))
    return pd.concat(parts, ignore_index=True)


def _tries(chain: Chain, axis: StageAxis, outcome: str, position: int) -> list[Line]:
    by_stage = [outcome_lines([chain.trace], [stage], outcome, False) for stage in chain.all]
    names = dict.fromkeys(line.name for lines in by_stage for line in lines)
    found = []
    for name in names:
        runs = [next((line.runs[0] for line in lines if line.name == name), _EMPTY) for lines in by_stage]
        label = outcome if len(names) == 1 else f"{outcome}, {name}"
        found.append(Line(label, [_joined(chain, axis, runs)], position))
    return found


_EMPTY = pd.DataFrame({name: pd.Series(dtype=float) for name in ("t", "value", "low", "high", "label", "text")})
