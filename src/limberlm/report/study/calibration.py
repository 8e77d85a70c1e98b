"""Calibration of a run's checkpoints: reliability diagrams, and each calibration error beside what chance gives."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from limberlm.outcomes.calibration import reliability_table
from limberlm.outcomes.calibration.binned import BINS
from limberlm.outcomes.calibration.names import SOURCES
from limberlm.report import words
from limberlm.report.cells import Cell
from limberlm.report.packing import Numbers
from limberlm.report.page import Json
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
MADE_FROM = ("confidence", "correct", "ece")
READ = ("node", "outcome", "task", "items", "settings")
DRAWN = ("confidence", "accuracy", "n")
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
    shown = {stage.node for run in runs for stage in run.stages}
    parts = {f"{name}_{source}": (name, source) for source in sources(data.measured) for name in MADE_FROM}
    frame = data.outcomes.loc[data.outcomes["outcome"].isin(parts)].reindex(columns=READ)
    read: dict[tuple[str, str, str], dict[str, Any]] = {}
    for node, outcome, *more in zip(*(frame[name].tolist() for name in READ), strict=True):
        name, source = parts[outcome]
        if node in shown:
            read.setdefault((node, source, more[0]), {}).setdefault(name, more[1:])
    tables = {key: _table(found) for key, found in read.items() if len(found) == len(MADE_FROM)}
    return {key: table for key, table in tables.items() if table is not None}


def reliability_numbers(tables: Tables, pool: Numbers) -> Json:
    """For the page, which draws the diagrams: by node, then by source and task, the arrays of `DRAWN`."""
    nodes: Json = {}
    for (node, source, task), table in tables.items():
        arrays = {name: pool.add(table[name].to_numpy()) for name in DRAWN}
        nodes.setdefault(node, {})[f"{source}|{task}"] = arrays
    return nodes


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


def _table(found: Mapping[str, Any]) -> pd.DataFrame | None:
    c, y = (np.asarray(found[name][0], dtype=np.float64) for name in ("confidence", "correct"))
    known = len(c) and len(c) == len(y) and np.isfinite(c).all()
    return reliability_table(c, y, _bins(found["ece"][1])) if known else None


def _cell(outcomes: Outcomes, stage: Stage, outcome: str, task: str) -> Cell:
    show = words.percent if outcome.startswith(("correct", "confidence")) else partial(words.number, digits=3)
    return outcomes.cell(stage, outcome, task, show=show)


def _bins(settings: object) -> int:
    return int(json.loads(settings).get("bins", BINS)) if isinstance(settings, str) else BINS
