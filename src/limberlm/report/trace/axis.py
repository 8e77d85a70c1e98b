"""The horizontal axis of a trace: how far training had come, logarithmic and with step 0 on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limberlm.analysis.wording import Unit, counted, short
from limberlm.report import words

MOST_TICKS = 7


class Places(Protocol):
    """What lines are drawn along."""

    def at(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The places of `values`."""

    def say(self, value: float) -> str:
        """A value in words."""

    def layout(self) -> dict[str, Any]:
        """Plotly's settings of the axis, its `range` among them."""


@dataclass(frozen=True)
class Axis:
    """Places t (tokens or steps) at log10(t + `least`), `least` the smallest t above 0, so that step 0 has a place.

    Phases are sought on the same axis, ln(t + t_min); our choice.

    >>> Axis("step", 1.0, 1000.0).at([0, 9, 999]).round(6).tolist()
    [0.0, 1.0, 3.0]
    """

    column: Unit
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float], column: Unit) -> Axis:
        """The axis that holds all `values`."""
        known = [float(value) for value in values if math.isfinite(value)]
        positive = [value for value in known if value > 0]
        return cls(column, min(positive, default=1.0), max(positive, default=1.0))

    def at(self, values: Iterable[float]) -> NDArray[np.float64]:
        """The places of `values` on the figure's (linear) axis."""
        found: NDArray[np.float64] = np.log10(np.maximum(np.fromiter(values, np.float64), 0.0) + self.least)
        return found

    def say(self, value: float) -> str:
        """A value with its unit.

        >>> Axis("tokens", 1.0, 1.0).say(71_680), Axis("step", 1.0, 1.0).say(35)
        ('71.7 k tokens', 'step 35')
        """
        return counted(short(value) if self.column == "tokens" else words.count(value), self.column)

    @property
    def title(self) -> str:
        """What is counted."""
        return "Tokens read" if self.column == "tokens" else "Step"

    def layout(self) -> dict[str, Any]:
        """Plotly's settings of the axis."""
        ticks = self.ticks()
        return {
            "title": {"text": f"{self.title} (logarithmic, 0 kept)"},
            "tickvals": self.at(ticks).tolist(),
            "ticktext": [short(tick) for tick in ticks],
            "tickangle": 0,
            "range": [float(self.at([0.0])[0]) - 0.04, float(self.at([self.most])[0]) + 0.04],
        }

    def ticks(self) -> list[float]:
        """0 and round numbers, few enough to be read on a narrow screen."""
        first, last = math.floor(math.log10(self.least)), math.ceil(math.log10(self.most))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            found = [tick for tick in found if self.least <= tick <= self.most * 1.01]
            if len(found) <= MOST_TICKS:
                break
        every = max(1, math.ceil(len(found) / MOST_TICKS))
        return [0.0, *found[::-1][::every][::-1]]
