"""What is drawn over the lines of a trace: shaded phases, turning points with their intervals, learning-rate events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from limberlm.report import drawing, style
from limberlm.report.drawing import Drawn, escaped
from limberlm.report.trace.axis import Places
from limberlm.report.trace.lines import Line

PHASE_COLOURS = {"warmup": "#e69f00", "entropy-seeking": "#009e73", "compression-seeking": "#cc79a7"}
"""The paper's three phases; any other stretch is grey."""

DIAMOND = "#7b8188"  # seen on both pages
ARROWS = {"fall": "↘", "rise": "↗"}


@dataclass(frozen=True)
class Span:
    """A phase: from `start` to `end` on the axis of training; `way` is "rise" or "fall"."""

    label: str
    way: str
    start: float
    end: float

    @property
    def name(self) -> str:
        """The phase as the legend names it, its direction beside it so that colour is never the only cue."""
        return f"{self.label} {ARROWS.get(self.way, '')}".strip()

    @property
    def colour(self) -> str:
        """The colour of the phase; a second cycle has that of the first."""
        return next((c for name, c in PHASE_COLOURS.items() if self.label.startswith(name)), style.BASE_COLOUR)


@dataclass(frozen=True)
class Turn:
    """A turning point with its interval, of the line that is named so. `run`: which of the line's seeds."""

    t: float
    low: float
    high: float
    line: str
    run: int = 0


@dataclass(frozen=True)
class Marks:
    """All that is drawn over the lines: the phases of the line named `of`; `events` are vertical lines with a name."""

    spans: Sequence[Span] = field(default_factory=tuple)
    turns_at: Sequence[Turn] = field(default_factory=tuple)
    events: Sequence[tuple[float, str]] = field(default_factory=tuple)
    of: str = ""

    def shapes(self, axis: Places) -> list[dict[str, Any]]:
        """Shaded phases, the intervals of their boundaries in grey over them, and the events."""
        shapes = [_band(axis, span.start, span.end, style.translucent(span.colour, 0.12)) for span in self.spans]
        if self.spans:
            grey = style.translucent(style.BASE_COLOUR, 0.26)
            shapes += [_band(axis, turn.low, turn.high, grey) for turn in self.turns_at if turn.line == self.of]
        for number, (t, _) in enumerate(self.events):
            (x,) = axis.at([t]).tolist()
            place = {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1}
            shapes.append(place | {"line": _event_line(number), "layer": "below"})
        return shapes

    def legend(self) -> list[Drawn]:
        """Entries that name the shades and the lines; they hold no point."""
        named = {span.name: span for span in self.spans}
        parts = [
            _entry(name) | {"mode": "markers", "marker": {"symbol": "square", "size": 13, "color": _solid(span)}}
            for name, span in named.items()
        ]
        if self.spans and self.turns_at:
            marker = {"symbol": "square", "size": 13, "color": style.translucent(style.BASE_COLOUR, 0.45)}
            parts.append(_entry("95 % interval of a boundary") | {"mode": "markers", "marker": marker})
        for number, (_, name) in enumerate(self.events):
            parts.append(_entry(name) | {"mode": "lines", "line": _event_line(number)})
        return parts

    def turns(self, axis: Places, lines: Sequence[Line]) -> list[Drawn]:
        """Open diamonds on the lines that turn, each of which tells its interval."""
        by_name = {line.name: line for line in lines}
        return [_diamond(axis, turn, by_name[turn.line]) for turn in self.turns_at if turn.line in by_name]

    def in_words(self, axis: Places) -> list[str]:
        """A sentence for every phase, turning point and event."""
        said = [f"{span.label}: {axis.say(span.start)} to {axis.say(span.end)}." for span in self.spans]
        for turn in self.turns_at:
            span = f"interval {axis.say(turn.low)} to {axis.say(turn.high)}"
            said.append(f"Turning point of {turn.line} at {axis.say(turn.t)}, {span}.")
        return said + [f"{name} at {axis.say(t)}." for t, name in self.events]


def _diamond(axis: Places, turn: Turn, line: Line) -> Drawn:
    known = line.runs[turn.run].dropna(subset=["value"])
    there = known.iloc[np.abs(axis.at(known["t"]) - axis.at([turn.t])).argsort()[:1]]
    seed = f", seed {turn.run + 1}" if len(line.runs) > 1 else ""
    text = f"{axis.say(turn.t)}<br>95 % interval {axis.say(turn.low)} to {axis.say(turn.high)}"
    return {
        "type": "scatter",
        "x": axis.at(there["t"]).tolist(),
        "y": there["value"].tolist(),
        "mode": "markers",
        "marker": {"symbol": "diamond-open", "size": 13, "color": DIAMOND, "line": {"width": 2}},
        "customdata": [(f"Turning point{seed}", text)] * len(there),
        "hovertemplate": drawing.HOVER,
        "showlegend": False,
    }


def _band(axis: Places, start: float, end: float, fill: str) -> dict[str, Any]:
    left, right = axis.at([start, end]).tolist()
    place = {"type": "rect", "xref": "x", "yref": "paper", "x0": left, "x1": right, "y0": 0, "y1": 1}
    return place | {"fillcolor": fill, "line": {"width": 0}, "layer": "below"}


def _entry(name: str) -> Drawn:
    # a group of its own: entries without one are stacked as soon as any other has one
    empty = {"type": "scatter", "x": [None], "y": [None], "hoverinfo": "skip"}
    return empty | {"name": escaped(name), "legendgroup": f"mark {escaped(name)}", "legendrank": 1500}


def _solid(span: Span) -> str:
    return style.translucent(span.colour, 0.5)


def _event_line(number: int) -> dict[str, Any]:
    return {"color": DIAMOND, "width": 1.4, "dash": ("dash", "dot", "dashdot")[number % 3]}
