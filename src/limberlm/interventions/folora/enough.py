"""When enough texts have been drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor

Row = Mapping[str, Any]
Gates = Callable[[Sequence[Row]], Tensor]
"""The gates, of any shape and each in [0, 1], that follow from some rows of a proxy."""


def enough(samples: Sequence[Row], n: int, max_tokens: int | None, settled: Settled | None) -> int | None:
    """How many of the samples do, or None if there are too few."""
    tokens = accumulate(len(sample["input_ids"]) for sample in samples)
    ends = [n] if len(samples) >= n else []
    ends += [place for place, total in enumerate(tokens, 1) if max_tokens is not None and total >= max_tokens][:1]
    if settled is not None:
        ends += [count for count in [settled(samples)] if count is not None]
    return min(ends, default=None)


class Settled:
    """Whether a doubling of the tokens has left the gates where they were."""

    def __init__(self, gates: Gates, tolerance: float) -> None:
        self.gates, self.tolerance = gates, tolerance
        self._at: dict[int, Tensor] = {}

    def __call__(self, samples: Sequence[Row]) -> int | None:
        """How many of the samples do; looked at after batches with twice the tokens of the last look."""
        for before, now in pairwise(_doublings(samples)):
            moved = (self._gates(samples, before) - self._gates(samples, now)).abs().mean()
            if float(moved) < self.tolerance:
                return now
        return None

    def _gates(self, samples: Sequence[Row], count: int) -> Tensor:
        if count not in self._at:
            self._at[count] = self.gates(samples[:count])
        return self._at[count]


def _doublings(samples: Sequence[Row]) -> Iterator[int]:
    """How many samples there are after the first batch, and after each that doubles the tokens of the last such."""
    last = 0
    tokens = list(accumulate(len(sample["input_ids"]) for sample in samples))
    for place, sample in enumerate(samples):
        ends = place + 1 == len(samples) or samples[place + 1]["batch"] != sample["batch"]
        if ends and tokens[place] >= 2 * last:
            last = tokens[place]
            yield place + 1
