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


def in_a_row(states: Sequence[State]) -> int:
    """How many of the last measurements said the same.

    >>> in_a_row(["inside", "outside", "outside"])
    2
    """
    return sum(1 for _ in takewhile(lambda state: state == states[-1], reversed(states)))


def act(states: Sequence[State], patience: int) -> Act:
    """What the last `patience` measurements, all alike, ask for; with each full `patience` more, once more.

    >>> [act(["outside"] * n, patience=2) for n in (1, 2, 3, 4)]
    ['keep', 'raise', 'keep', 'raise']
    """
    if not states or states[-1] == "cannot tell" or in_a_row(states) % patience:
        return "keep"
    return "raise" if states[-1] == "outside" else "lower"


def next_weight(states: Sequence[State], weight: float, ladder: Ladder, patience: int) -> float:
    """The weight after these measurements, of which the last was made under `weight`."""
    wanted = act(states, patience)
    if wanted == "keep":
        return weight
    return ladder.above(weight) if wanted == "raise" else ladder.below(weight)
