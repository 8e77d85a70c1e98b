"""What an analysis of phases gives: stretches, turning points, and the answer they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import nan
from typing import Any, Literal

from limberlm.analysis.companions import Companion
from limberlm.analysis.plain import plain
from limberlm.analysis.trial import Rules

VISIBLE = 3
"""Swings of fewer standard deviations of the noise are not expected to be seen."""


@dataclass(frozen=True)
class Turn:
    """A turning point: the extreme of the fit, with its 95 % interval, at least one checkpoint to each side."""

    kind: Literal["peak", "trough"]
    step: float
    low: float
    high: float


@dataclass(frozen=True)
class Swing:
    """A stretch between two turning points, or ends of the series.

    Attributes: `label`, what it is called; `change` of ln effective rank, of the fit; `low`, `high`, its interval over
    probe blocks, NaN without them; `alpha` and `head_removed`, how those moved over it, None where not given.
    """

    direction: Literal["rise", "fall"]
    label: str
    start: float
    end: float
    change: float
    low: float
    high: float
    alpha: Companion | None = None
    head_removed: Companion | None = None

    @property
    def alpha_agrees(self) -> str | None:
        """Whether alpha moved the opposite way: yes, lagged (elsewhere) or no; None where it is not known."""
        return self.alpha.follows if self.alpha else None

    @property
    def head_only(self) -> bool | None:
        """Whether the rank behind the first directions is not found to follow: they alone moved."""
        beside = self.head_removed
        return beside.follows == "no" and not beside.moved if beside else None


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The phases of one series of one run; what is not given was not found.

    Attributes:
        pattern: "F R F" and the like, F for a fall of effective rank, R for a rise; empty if none was found.
        answer: what that is called, one of few phrases.
        verdict: the answer in a sentence, with steps.
        swings: each stretch, with label, change and intervals.
        turns: where they meet.
        sigma: the noise of one checkpoint, in ln effective rank; NaN if there are too few.
        p_values: for 0, 1, 2 .. stretches, how often noise alone would make more of them look as good as here.
        outliers: steps of checkpoints that were left out, because a stretch would have rested on one of them alone.
        lowered: why there are fewer stretches than the p-values ask for.
        checkpoints: how many were given; `used`, how many points they became (more than 64 are averaged).
        warmup_end, limit: as given, and the latest step at which a trough ends the warmup; None if not known.
        fit: (step, value, fitted value) of each point that counts.
        second_opinion: the pattern by piecewise linear regression, which decides nothing.
        alpha_turns, head_removed_turns: where those turn themselves; None where not given.
        rules: the settings.

    """

    pattern: str = ""
    answer: str
    verdict: str
    swings: tuple[Swing, ...] = ()
    turns: tuple[Turn, ...] = ()
    sigma: float = nan
    p_values: tuple[float, ...] = ()
    outliers: tuple[float, ...] = ()
    lowered: tuple[str, ...] = ()
    checkpoints: int = 0
    used: int = 0
    warmup_end: float | None = None
    limit: float | None = None
    fit: tuple[tuple[float, float, float], ...] = ()
    second_opinion: str = ""
    alpha_turns: tuple[Turn, ...] | None = None
    head_removed_turns: tuple[Turn, ...] | None = None
    rules: Rules = field(default_factory=Rules)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each stretch is called."""
        return tuple(swing.label for swing in self.swings)

    @property
    def spans(self) -> tuple[tuple[str, float, float], ...]:
        """(label, first step, last step) of each phase, its inner turns taken together."""
        return spans_of(self.swings)

    @property
    def visible(self) -> float:
        """The smallest swing that can be expected to be seen: 3 sigma."""
        return VISIBLE * self.sigma

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, words and lists, None for what is not known: fit for JSON."""
        shown: dict[str, Any] = plain(self)
        for swing, record in zip(self.swings, shown["swings"], strict=True):
            record |= {"alpha_agrees": swing.alpha_agrees, "head_only": swing.head_only}
        return shown | {"labels": list(self.labels), "spans": plain(self.spans), "visible": plain(self.visible)}


def spans_of(swings: Sequence[Swing]) -> tuple[tuple[str, float, float], ...]:
    """(label, first step, last step), neighbours of one label taken together."""
    groups = [(name, list(members)) for name, members in groupby(swings, key=lambda swing: swing.label)]
    return tuple((name, members[0].start, members[-1].end) for name, members in groups)
