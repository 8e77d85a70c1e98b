"""What a guard does about what it saw: a function of the measurements so far, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from limberlm.interventions.guard.margin import State

Act = Literal["raise", "lower", "keep"]


@dataclass(frozen=True)
class Seen:
    """One measurement of a guard, and the weight from then on.

    Attributes:
        step: the optimiser step.
        change: from the start, bias-corrected; a ratio or a difference, as the metric's scale says.
        low, high: its 95 % interval, paired over the probe's texts.
        detectable: the smallest change that would be found four times out of five.
        state: what the interval says of the margin.
        weight: of the regularizer after this measurement.
    """

    step: int
    change: float
    low: float
    high: float
    detectable: float
    state: State
    weight: float


@dataclass(frozen=True)
class Ladder:
    """The weights a guard may set: the start's, then `first`, `first` x `factor`, ..., up to the largest."""

    start: float
    first: float
    factor: float
    largest: float

    def above(self, weight: float) -> float:
        """The next larger weight.

        >>> ladder = Ladder(0.0, 0.1, 4.0, 1.0)
        >>> [ladder.above(weight) for weight in (0.0, 0.1, 0.4, 1.0)]
        [0.1, 0.4, 1.0, 1.0]
        """
        return min(max(weight * self.factor, self.first), self.largest)

    def below(self, weight: float) -> float:
        """The next smaller weight: the start's where the first would be undercut.

        >>> ladder = Ladder(0.0, 0.1, 4.0, 1.0)
        >>> [ladder.below(weight) for weight in (1.0, 0.4, 0.1, 0.0)]
        [0.25, 0.1, 0.0, 0.0]
        """
        lower = weight / self.factor
        return lower if lower >= max(self.first, self.start) * (1 - 1e-9) else self.start


def in_a_row(said: Sequence[str]) -> int:
    """How many of the last measurements said the same.

    >>> in_a_row(["inside", "outside", "outside"])
    2
    """
    return sum(1 for _ in takewhile(lambda one: one == said[-1], reversed(said)))


def asked(state: State, settled: bool) -> Act:
    """What one measurement asks for; `settled` is whether it is so far inside that the weight may go down."""
    if state == "outside":
        return "raise"
    return "lower" if state == "inside" and settled else "keep"


def next_weight(asks: Sequence[Act], weight: float, ladder: Ladder, patience: int) -> float:
    """The weight after measurements that asked for this, of which the last was made under `weight`.

    Where the last `patience` ask for the same it is done, and with each full `patience` more once more.

    >>> ladder = Ladder(0.0, 0.1, 4.0, 1.0)
    >>> [next_weight(["raise"] * n, 0.1, ladder, patience=2) for n in (1, 2, 3, 4)]
    [0.1, 0.4, 0.1, 0.4]
    """
    if not asks or asks[-1] == "keep" or in_a_row(asks) % patience:
        return weight
    return ladder.above(weight) if asks[-1] == "raise" else ladder.below(weight)
