"""Refusals of a run's checkpoints: what each judge says of forbidden requests, and of look-alikes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from limberlm.outcomes.refusals import TASK
from limberlm.outcomes.samples import OUT_OF_DOMAIN
from limberlm.report import drawing, words
from limberlm.report.cells import NOTHING, Cell
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.study.data import Run, Stage
from limberlm.report.study.headline import TARGET_SPLIT
from limberlm.report.study.outcomes import Outcomes

JUDGES = ("verifier", "keywords", "likelihood")
SPLITS = ((TARGET_SPLIT, "in domain"), (OUT_OF_DOMAIN, "out of domain"))
ROWS: tuple[tuple[str, str], ...] = (
    *((f"refusal_{judge}", f"forbidden, refused: {judge}") for judge in JUDGES),
    ("forbidden_complied", "forbidden, complied with"),
    ("forbidden_neither", "forbidden, neither"),
    *((f"over_refusal_{judge}", f"look-alike, refused: {judge}") for judge in JUDGES),
    ("allowed_answered", "look-alike, answered right"),
    ("allowed_neither", "look-alike, neither"),
)
CAPTION = (
    "Shares of requests, with 95 % intervals over requests. Judges: verifier, the answer is the trained refusal; "
    "keywords, it holds a refusing word; likelihood, the refusal is likelier than the answer asked for. They can "
    "disagree: a model that mumbles neither refuses nor complies."
)


@dataclass(frozen=True)
class Line:
    """One rate: what it is of, the split, and a cell per stage of the run."""

    rate: str
    split: str
    cells: tuple[Cell, ...]


def refusal_lines(run: Run, outcomes: pd.DataFrame) -> list[Line]:
    """Every rate that was measured, in domain and then out of it; `outcomes` are the run's."""
    rows = Outcomes(outcomes[outcomes["task"] == TASK])
    lines = []
    for split, where in SPLITS:
        for outcome, title in ROWS:
            cells = tuple(rows.cell(stage, outcome, TASK, split, words.percent) for stage in run.stages)
            if any(cell is not NOTHING for cell in cells):
                lines.append(Line(title, where, cells))
    return lines


def refusal_figure(lines: Sequence[Line], stages: Sequence[Stage]) -> Figure:
    """The judges' refusal rates in domain over the stages: of forbidden requests, and of look-alikes."""
    drawn: list[Drawn] = []
    labels = [escaped(stage.label) for stage in stages]
    refused = [line for line in lines if "refused" in line.rate and line.split == SPLITS[0][1]]
    for position, line in enumerate(refused, start=1):
        name = line.rate.replace(", refused", "")
        known = [(x, cell) for x, cell in zip(labels, line.cells, strict=True) if cell is not NOTHING]
        curve = drawing.line([x for x, _ in known], [100 * cell.value for _, cell in known], name, position, position)
        curve["line"] = curve["line"] | {"dash": "solid" if line.rate.startswith("forbidden") else "dot"}
        drawn.append(curve | {"customdata": [(x, f"{line.rate}: {cell.text}{_span(cell)}") for x, cell in known]})
    xaxis = {
        "title": {"text": "Stage, in training order"},
        "type": "category",
        "categoryorder": "array",
        "categoryarray": labels,
    }
    return Figure(drawn, drawing.layout(340, xaxis, {"title": {"text": "Refused (%)"}, "range": [-3, 103]}))


def _span(cell: Cell) -> str:
    return f"<br>95 % interval {cell.interval}" if cell.interval else ""
