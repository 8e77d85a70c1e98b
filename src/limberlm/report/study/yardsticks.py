"""Yardsticks: what a change could be due to other than what a stage taught, read off a run's controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from limberlm.analysis.direction import RANK
from limberlm.geometry import HEADLINE
from limberlm.report import words
from limberlm.report.cells import Cell
from limberlm.report.study.chain_ends import End, Measure, end_cells, measured_only, tasks_of
from limberlm.report.study.changes import Change, change_cell
from limberlm.report.study.data import Control, ReportData, Run, Stage

ZERO = "zero_learning_rate"
TITLES = {
    "repeat": "the first stage over and over",
    "joint": "all supervised stages in one",
    "equal_tokens": "the last stage alone, as many tokens",
    "full": "the chain with all weights trained",
}
CAPTION = (
    "Trained: the change from where the stage started. Random: the change from the same start by an update with the "
    "stage's own singular values in random directions, drawn once. Difference: the trained checkpoint against the "
    "random one, paired over the same sequences. 95 % intervals are over probe sequences, not over draws of random "
    "directions; other draws are in the other seeds. They are not adjusted for the number of metrics and stages."
)
NUMBERS = ("value", "low", "high", "std_error", "null_value", "n_tokens", "n_sequences", "replicates", "items")


@dataclass(frozen=True)
class Yardstick:
    """A stage's change of one metric, that of an update of its size, and the first against the second."""

    stage: str
    metric: str
    trained: Change
    random: Change
    difference: Change

    @property
    def cells(self) -> tuple[Cell, Cell, Cell]:
        """The three changes as cells."""
        difference = change_cell(self.difference, "no difference found")
        return change_cell(self.trained), change_cell(self.random), difference

    @property
    def sentence(self) -> str:
        """What the three say together."""
        name = words.metric_title(self.metric)
        return (
            f"{self.stage} changed the {name[:1].lower()}{name[1:]} by {_said(self.trained)}; an update of the same "
            f"size in random directions by {_said(self.random)}: {self._judgement}."
        )

    @property
    def _judgement(self) -> str:
        if not (self.trained.known and self.random.known and self.difference.known):
            return "without intervals, so nothing can be concluded"
        if not self.difference.found:
            return "it cannot be told from an update of the same size"
        if not self.trained.found:
            return "training left it where an update of the same size would have moved it"
        if not self.random.found or self.random.up != self.trained.up:
            return "the change is the training's, not its size's"
        if self.trained.size > self.random.size:
            return "more than its size alone would have changed"
        return "less than its size alone would have changed"


def yardsticks(data: ReportData, run: Run) -> list[Yardstick]:
    """Every stage's, of every headline metric, where there is a random twin and a change was measured."""
    found = []
    for stage in run.stages[1:]:
        found += [each for metric in HEADLINE if (each := _yardstick(data, stage, metric)) is not None]
    return found


def sentences(found: Sequence[Yardstick]) -> list[str]:
    """One sentence per stage, of the headline metric."""
    return [each.sentence for each in found if each.metric == RANK]


def zero_sentences(data: ReportData, run: Run) -> list[str]:
    """Whether the stage at a learning rate of zero left every number as it was, bit for bit, or which it did not."""
    return [
        _zero(data, control) for control in data.controls.get(run.key, ()) if control.kind == ZERO and control.nodes
    ]


@dataclass(frozen=True)
class EndTable:
    """The end of a chain beside the ends of its controls: the columns, and rows of (name, note, cells)."""

    measures: tuple[Measure, ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def end_table(data: ReportData, run: Run) -> EndTable | None:
    """What the other controls end with, the run's own end first; None where there are none, or none is measured."""
    tasks = tasks_of(data, run)
    ends = [(run.chain, "this chain", End(run.key, run.stages[-1].node, tasks))]
    for control in data.controls.get(run.key, ()):
        if control.kind in TITLES:
            end = End(control.key, control.nodes[-1], tasks)
            ends.append((control.chain, TITLES[control.kind], end))
    if len(ends) == 1:
        return None
    cells = [(name, note, end_cells(data, end)) for name, note, end in ends]
    shown = measured_only(data, [each for _, _, each in cells[1:]])
    if not shown:
        return None
    return EndTable(
        shown, tuple((name, note, tuple(own[measure.name] for measure in shown)) for name, note, own in cells)
    )


def _yardstick(data: ReportData, stage: Stage, metric: str) -> Yardstick | None:
    twin = data.twins.get(stage.node)
    start = "previous" if stage.index > 1 else "base"
    if twin is None:
        return None
    trained, random = (data.changes.get(node, start, metric) for node in (stage.node, twin))
    difference = data.changes.get(stage.node, "random_adapter", metric)
    if trained is None or random is None or difference is None:
        return None
    return Yardstick(stage.label, metric, trained, random, difference)


def _said(change: Change) -> str:
    span = change.interval.removesuffix(words.PERCENT)
    return f"{change.text} ({span})" if span else change.text


def _zero(data: ReportData, control: Control) -> str:
    head = f"{control.chain.partition(' [')[0]}: the whole stage at a learning rate of zero"
    parts = [
        _differing(rows, keys, control, what)
        for rows, keys, what in (
            (data.rows("geometry", control.key), ["metric", "convention", "site"], "geometry"),
            (data.rows("outcomes", control.key), ["outcome", "task", "split", "step", "rate"], "outcome"),
        )
    ]
    said = [part for part in parts if part]
    return f"{head}: {'; '.join(said) if said else 'not measured'}."


def _differing(rows: pd.DataFrame, keys: list[str], control: Control, what: str) -> str:
    """What the numbers of the base and of the zero stage say of each other; empty if there are none of either."""
    before, after = (_numbers(rows[rows["node"] == node], keys) for node in (control.nodes[0], control.nodes[-1]))
    shared = [key for key in before if key in after]
    if not shared:
        return ""
    differing = [key for key in shared if not _equal(before[key], after[key])]
    if not differing:
        return f"all {words.count(len(shared))} {what} values equal the base's bit for bit"
    names = list(dict.fromkeys(key[0] for key in differing))
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{words.count(len(differing))} of {words.count(len(shared))} {what} values differ from the base's: {listed}"


def _numbers(rows: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], list[object]]:
    """All that is stored of each number: value, interval and what they were made from."""
    columns = [name for name in NUMBERS if name in rows.columns]
    names = zip(*(rows[key].astype(str) for key in keys), strict=True)
    return dict(zip(names, rows[columns].to_numpy(dtype=object).tolist(), strict=True))


def _equal(one: Sequence[object], other: Sequence[object]) -> bool:
    """Whether two rows hold the same numbers, NaN equal to NaN."""
    return all(
        np.array_equal(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64), equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )
