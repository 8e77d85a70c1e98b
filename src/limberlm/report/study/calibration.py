"""Calibration of a run's checkpoints: reliability diagrams, and each calibration error beside what chance gives."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from limberlm.outcomes.calibration import reliability_table
from limberlm.outcomes.calibration.binned import BINS
from limberlm.outcomes.calibration.sources import SOURCES
from limberlm.report import drawing, words
from limberlm.report.cells import Cell
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.study.data import ReportData, Run, Stage
from limberlm.report.study.outcomes import Outcomes

SOURCE_TITLES = {
    "choice_normalised": "options of a question, log-likelihood per token",
    "choice_summed": "options of a question, log-likelihood in sum",
    "next_token": "next token of held-out prose",
}
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("correct", "Accuracy", "share right"),
    ("confidence", "Confidence", "mean"),
    ("ece", "ECE", "biased upwards"),
    ("ece_null", "ECE if calibrated", "by chance alone"),
    ("ece2_debiased", "ECE², debiased", "may be below 0"),
    ("auroc", "AUROC", "right ranked above wrong"),
    ("nll", "NLL", "nats"),
    ("temperature", "Temperature", "best, on other items"),
    ("ece_tempered", "ECE at it", "biased upwards"),
)
CAPTION = (
    "Each point is a bin of confidences: how often the answers in it were right, against how sure the model was. On "
    "the diagonal it is calibrated, below it overconfident. Point at a marker for the bin's interval and count. An "
    "ECE is above zero for a calibrated model too: beside it what it would then read on average, with the same "
    "confidences."
)
Tables = Mapping[tuple[str, str, str], pd.DataFrame]


@dataclass(frozen=True)
class Panel:
    """One confidence source on one task: a row of cells per stage that it was measured at."""

    source: str
    task: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def sources(measured: Container[str]) -> list[str]:
    """The confidence sources whose outcomes were measured, in the library's order."""
    return [source for source in SOURCES if f"ece_{source}" in measured]


def reliability(data: ReportData, runs: Sequence[Run]) -> Tables:
    """The reliability table of every node of the runs, source and task whose confidences are known."""
    found: dict[tuple[str, str, str], pd.DataFrame] = {}
    shown = data.outcomes["node"].isin({stage.node for run in runs for stage in run.stages})
    for source in sources(data.measured):
        for (node, task), own in _of(data.outcomes[shown], source).groupby(["node", "task"], sort=False):
            rows = own.drop_duplicates("outcome").set_index("outcome")
            if not {"confidence", "correct", "ece"} <= set(rows.index):
                continue
            c, y = (np.asarray(rows.loc[name, "items"], dtype=np.float64) for name in ("confidence", "correct"))
            if len(c) and len(c) == len(y) and np.isfinite(c).all():
                found[str(node), source, str(task)] = reliability_table(c, y, _bins(rows.loc["ece", "settings"]))
    return found


def panels(data: ReportData, run: Run) -> list[Panel]:
    """What was measured of a run's calibration, source by source."""
    found = []
    frame = data.rows("outcomes", run.key)
    outcomes = Outcomes(frame)
    for source in sources(set(frame["outcome"])):
        for task in frame.loc[frame["outcome"] == f"ece_{source}", "task"].drop_duplicates():
            rows = tuple(
                (stage.label, tuple(_cell(outcomes, stage, f"{name}_{source}", task) for name, _, _ in COLUMNS))
                for stage in run.stages
                if outcomes.row(stage, f"ece_{source}", task) is not None
            )
            found.append(Panel(source, str(task), rows))
    return found


def reliability_diagram(tables: Tables, stages: Sequence[Stage], source: str, task: str) -> Figure:
    """Accuracy over confidence, one line per stage, and the diagonal."""
    diagonal = {
        "type": "scatter",
        "x": [0, 1],
        "y": [0, 1],
        "mode": "lines",
        "name": "calibrated",
        "line": drawing.DASHED,
        "hoverinfo": "skip",
    }
    drawn: list[Drawn] = [diagonal]
    for position, stage in enumerate(stages):
        table = tables.get((stage.node, source, task))
        if table is not None:
            label = escaped(stage.label)
            curve = drawing.line(table["confidence"].tolist(), table["accuracy"].tolist(), label, position, position)
            drawn.append(curve | {"customdata": [(label, text) for text in _bin_texts(table)]})
    xaxis = {"title": {"text": "Confidence"}, "range": [-0.02, 1.02]}
    yaxis = {"title": {"text": "Share right"}, "range": [-0.02, 1.02]}
    return Figure(drawn, drawing.layout(360, xaxis, yaxis))


def _of(outcomes: pd.DataFrame, source: str) -> pd.DataFrame:
    """What diagrams are made from, of one source: the outcomes without its name."""
    names = {f"{name}_{source}": name for name in ("confidence", "correct", "ece")}
    own = outcomes[outcomes["outcome"].isin(names)]
    return own.assign(outcome=own["outcome"].map(names))


def _cell(outcomes: Outcomes, stage: Stage, outcome: str, task: str) -> Cell:
    show = words.percent if outcome.startswith(("correct", "confidence")) else partial(words.number, digits=3)
    return outcomes.cell(stage, outcome, task, show=show)


def _bins(settings: object) -> int:
    return int(json.loads(settings).get("bins", BINS)) if isinstance(settings, str) else BINS


def _bin_texts(table: pd.DataFrame) -> Iterator[str]:
    columns = (table[name].tolist() for name in ("confidence", "accuracy", "low", "high", "n"))
    for confidence, accuracy, low, high, n in zip(*columns, strict=True):
        span = drawing.interval_text(100 * low, 100 * high, " %")
        right = f"right {words.number(100 * accuracy, 3)} %{span}"
        yield f"confidence {words.number(confidence, 3)}: {right}<br>{n:.0f} answers"
