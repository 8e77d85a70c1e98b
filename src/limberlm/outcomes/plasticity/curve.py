"""The curve of a held-out loss over the steps of learning, as numbers and as it stands in outcome rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = Mapping[str, Any]
Key = tuple[str, float]  # task, learning rate

LOSS = "future_loss"


def aulc(steps: Sequence[int], losses: Sequence[float]) -> float:
    """Area under the loss curve per step, in the loss's unit.

    The mean of the readings after step 0 on an even grid; trapezoids over the whole grid, divided by its length, on
    an uneven one.

    >>> aulc([0, 2, 4], [3.0, 2.0, 1.0]), aulc([0, 2, 3], [3.0, 2.0, 2.0])
    (1.5, 2.3333333333333335)
    """
    grid, curve = np.asarray(steps), np.asarray(losses, dtype=np.float64)
    if len(set(np.diff(grid))) == 1:
        return float(curve[1:].mean())
    return float(np.trapezoid(curve, grid) / (grid[-1] - grid[0]))


@dataclass(frozen=True, eq=False)
class Curve:
    """The held-out loss of one task at one learning rate.

    Attributes:
        steps: the grid [g], from 0 to K.
        losses: nats per token over all items [g].
        items: nats per token of each item [g, items].
        tokens: tokens in the training forwards up to each step [g], without padding.
        settings: what the numbers depend on besides the model, without `tokens`.

    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    items: Floats
    tokens: tuple[int, ...]
    settings: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        return int(self.settings["batch_size"])

    @property
    def cap(self) -> int:
        """Examples in the whole budget."""
        return self.steps[-1] * self.batch_size


def settings_of(row: Row) -> dict[str, Any]:
    """The settings of an outcome row; empty where it has none, also in a row of a table, where that is NA."""
    found = row["settings"]
    return dict(json.loads(found)) if isinstance(found, str) else {}


def curves(rows: Iterable[Row]) -> dict[Key, Curve]:
    """The curves among a checkpoint's outcome rows, by task and learning rate.

    Rows may be those of `plasticity_outcomes` or the records of their table.

    Raises:
        ValueError: a row that does not say its learning rate, or two readings of one step.

    """
    found: dict[Key, list[tuple[Row, dict[str, Any]]]] = {}
    for row in rows:
        if row["outcome"] == LOSS:
            settings = settings_of(row)
            if "learning_rate" not in settings:
                raise ValueError(f"{row['task']}: {LOSS} does not say its learning rate; measure plasticity again")
            found.setdefault((str(row["task"]), float(settings["learning_rate"])), []).append((row, settings))
    return {key: _curve(readings) for key, readings in found.items()}


def _curve(readings: list[tuple[Row, dict[str, Any]]]) -> Curve:
    ordered = sorted(readings, key=lambda reading: int(reading[0]["step"]))
    steps = tuple(int(row["step"]) for row, _ in ordered)
    if len(set(steps)) < len(steps):
        raise ValueError("two readings of one step: give the rows of one checkpoint at a time")
    return Curve(
        steps,
        tuple(float(row["value"]) for row, _ in ordered),
        np.array([np.asarray(row["items"], dtype=np.float64) for row, _ in ordered]),
        tuple(int(settings["tokens"]) for _, settings in ordered),
        {name: value for name, value in ordered[0][1].items() if name != "tokens"},
    )
