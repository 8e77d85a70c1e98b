"""What is read off a run's score matrices: ACC, BWT, forgetting and FWT, over items, over seeds and task by task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from limberlm.outcomes.score_matrix import Quantity, ScoreMatrix, SeedQuantity, over_seeds
from limberlm.report import words
from limberlm.report.cells import NOTHING, Cell, Show, number_cell
from limberlm.report.study.data import ReportData, Run

TITLES = {"share": "Right answers", "loss": "Held-out loss"}
QUANTITIES: tuple[tuple[str, str, str], ...] = (
    ("acc", "ACC", "at the end of the chain"),
    ("bwt", "BWT", "earlier tasks: the end minus right after their stage"),
    ("forgetting", "Forgetting", "earlier tasks: the best checkpoint before the end minus the end"),
    ("fwt", "FWT", "later tasks: right before their first stage minus the base"),
)
CAPTION = (
    "Means over tasks. Intervals over items are for these checkpoints, with other questions of the same kind; "
    "intervals over seeds are Student's, for the chain as a recipe. BWT and FWT below zero: something was lost. "
    "Forgetting above zero: something was lost; as a difference from the best of several noisy scores it reads too "
    "high, by about its bias or more. Losses: ACC is the loss itself; the other rows have its sign turned, so that "
    "they read alike."
)


@dataclass(frozen=True)
class Line:
    """One quantity: over items, over seeds, and a cell per task."""

    title: str
    note: str
    items: Cell
    seeds: Cell
    tasks: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The quantities of one score matrix, its tasks, and the trained tasks that it leaves out."""

    title: str
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]
    seeds: int
    lines: tuple[Line, ...]


def score_tables(data: ReportData, run: Run, runs: Sequence[Run]) -> list[Table]:
    """The score matrices of a run, shares before losses, with those of its other seeds."""
    siblings = [other for other in runs if other.chain == run.chain]
    found = []
    for scores, title in TITLES.items():
        own = data.matrices.get(run.key, {}).get(scores)
        if own is None:
            continue
        others = [each for other in siblings if (each := data.matrices.get(other.key, {}).get(scores)) is not None]
        alike = [each for each in others if (each.stages, each.tasks) == (own.stages, own.tasks)]
        found.append(_table(title, own, alike, scores))
    return found


def _table(title: str, own: ScoreMatrix, alike: Sequence[ScoreMatrix], scores: str) -> Table:
    seeds = over_seeds(alike) if len(alike) > 1 else {}
    lines = []
    for name, head, note in QUANTITIES:
        quantity: Quantity | None = getattr(own, name)
        if quantity is not None:
            lines.append(_line(head, note, quantity, seeds.get(name), own.tasks, _printer(name, scores)))
    return Table(title, own.tasks, own.left_out, len(alike), tuple(lines))


def _line(
    head: str,
    note: str,
    quantity: Quantity,
    seeds: SeedQuantity | None,
    tasks: Sequence[str],
    printer: Printer,
) -> Line:
    bias = "" if quantity.bias is None else f"bias about {printer.show(quantity.bias)}"
    over = NOTHING if seeds is None else printer.cell(seeds.mean, seeds.low, seeds.high, f"n = {seeds.n}")
    rows = [quantity.tasks.get(task) for task in tasks]
    cells = [NOTHING if row is None else printer.cell(row["value"], row["low"], row["high"]) for row in rows]
    whole = printer.cell(quantity.value, quantity.low, quantity.high, bias)
    return Line(head, note, whole, over, tuple(cells))


@dataclass(frozen=True)
class Printer:
    """How a quantity is printed; `sign` -1 makes a loss again of what is above zero where it is better."""

    show: Show
    unit: str = ""
    sign: int = 1

    def cell(self, value: float, low: float | None, high: float | None, remark: str = "") -> Cell:
        """A value with its interval, where there is one."""
        ends = tuple(self.sign * (math.nan if end is None else end) for end in (low, high)[:: self.sign])
        return number_cell(self.sign * value, *ends, show=self.show, unit=self.unit, remark=remark)


def _printer(name: str, scores: str) -> Printer:
    if scores == "loss":
        show = partial(words.difference, digits=3)
        return Printer(words.number, " nats", -1) if name == "acc" else Printer(show, " nats")
    return Printer(words.percent) if name == "acc" else Printer(words.points, " points")
