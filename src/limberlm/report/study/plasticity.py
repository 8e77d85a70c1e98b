"""Plasticity of a run's checkpoints: future tasks, learning rates, and how many examples a threshold takes."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell
from limberlm.report.study.data import ReportData, Run, Stage
from limberlm.report.study.outcomes import Outcomes, Row

LOSSES = {"future_loss": "", "random_label_loss": "random_label_"}
THRESHOLD = "samples_to_threshold"
# outcome, head, note, whether it is a share
COLUMNS: tuple[tuple[str, str, str, bool], ...] = (
    ("loss_before", "Loss before", "nats per token", False),
    ("loss_after", "Loss after", "nats per token", False),
    ("aulc", "AULC", "nats per token", False),
    ("score_before", "Score before", "right answers", True),
    ("future_score", "Score after", "right answers", True),
    (THRESHOLD, "Samples to threshold", "the base's loss at half its budget", False),
    ("future_kl", "KL spent", "nats per token", False),
    ("gradient_readiness", "Gradient readiness", "at the first step", False),
    ("best_learning_rate", "Best rate", "of the sweep", False),
    ("best_loss_after", "Loss after, best rate", "on the other items", False),
)
CAPTION = (
    "From each stage a fresh adapter, the same everywhere, learns the task with the same batches. A lower curve: "
    "easier to teach; read the loss before with it, for a checkpoint that knows something of the task looks plastic. "
    "Samples to threshold: examples until the held-out loss is down at the threshold; where it never was, that is "
    "only known to be more than the budget."
)


@dataclass(frozen=True)
class Panel:
    """One task: its name, and the outcome that its curve is of."""

    task: str
    outcome: str

    @property
    def title(self) -> str:
        """The task in words."""
        return self.task.replace("_", " ")


@dataclass(frozen=True)
class Table:
    """What was measured at one learning rate: the columns, and (task, stage, cells) rows."""

    rate: float | None
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def panels(outcomes: pd.DataFrame) -> list[Panel]:
    """The tasks with a curve, in order; `outcomes` are a run's."""
    rows = outcomes[outcomes["outcome"].isin(list(LOSSES))].drop_duplicates(["outcome", "task"])
    return [Panel(str(task), str(name)) for task, name in zip(rows["task"], rows["outcome"], strict=True)]


def rate_name(rate: float | None) -> str:
    """A learning rate as the page knows it.

    >>> rate_name(2e-3), rate_name(None)
    ('0.002', 'one')
    """
    return "one" if rate is None else f"{rate:g}"


def at_rate(outcomes: pd.DataFrame, rate: float | None) -> pd.DataFrame:
    """The rows that depend on no learning rate, or are at this one."""
    return outcomes[outcomes["rate"].isna() | (outcomes["rate"] == rate)]


def plasticity_tables(data: ReportData, run: Run) -> list[Table]:
    """One table for each learning rate."""
    outcomes = data.rows("outcomes", run.key)
    return [_table(at_rate(outcomes, rate), run, rate) for rate in data.rates or (None,)]


def _table(frame: pd.DataFrame, run: Run, rate: float | None) -> Table:
    outcomes = Outcomes(frame)
    rows = [
        (panel.title, stage.label, tuple(_cell(outcomes, panel, stage, column) for column in COLUMNS))
        for panel in panels(frame)
        for stage in run.stages
    ]
    kept = [i for i in range(len(COLUMNS)) if any(cells[i] is not NOTHING for _, _, cells in rows)]
    measured = [row for row in rows if any(cell is not NOTHING for cell in row[2])]
    return Table(
        rate,
        tuple((COLUMNS[i][1], COLUMNS[i][2]) for i in kept),
        tuple((task, label, tuple(cells[i] for i in kept)) for task, label, cells in measured),
    )


def _cell(outcomes: Outcomes, panel: Panel, stage: Stage, column: tuple[str, str, str, bool]) -> Cell:
    outcome, _, _, share = column
    prefix = LOSSES[panel.outcome]
    name = prefix + (outcome.removeprefix("future_") if prefix else outcome)
    row = outcomes.row(stage, name, panel.task)
    if row is not None and outcome == THRESHOLD:
        return _threshold_cell(row)
    return outcomes.cell(stage, name, panel.task, show=words.percent if share else words.number)


def _threshold_cell(row: Row) -> Cell:
    value, said = float(row["value"]), row.get("settings")
    settings = json.loads(said) if isinstance(said, str) else {}
    remark = f"loss {words.number(float(settings['tau']))}" if "tau" in settings else ""
    if settings.get("censored"):
        return Cell(value, f"not reached within {words.count(value)}", remark=remark)
    return Cell(value, "0, at the start" if value == 0 else words.count(value), remark=remark)
