"""Dots with intervals, one row each: what differs is seen at a glance, and how surely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

from limberlm.report import drawing, style, words
from limberlm.report.drawing import Drawn, Figure, escaped

Look = Literal["good", "bad", "plain"]
WIDTH = 18
# colour and symbol, so that colour is never the only cue
_LOOKS: dict[Look, tuple[str, str]] = {
    "good": ("#009e73", "triangle-up"),
    "bad": ("#d55e00", "triangle-down"),
    "plain": (style.NULL_COLOUR, "circle-open"),
}


@dataclass(frozen=True)
class Dot:
    """One row: its name, its value with the 95 % interval (NaN for none), how it is to be seen, and words to it."""

    name: str
    value: float
    low: float
    high: float
    look: Look = "plain"
    note: str = ""


def dots(rows: Sequence[Dot], axis: str, reference: float, legend: dict[Look, str]) -> Figure:
    """Values along a line, a row each, top to bottom; `reference` is dashed. `legend` names the looks that occur."""
    drawn: list[Drawn] = []
    for look, name in legend.items():
        own = [row for row in rows if row.look == look]
        if own:
            drawn += [*_spans(own, look), _points(own, look, name)]
    names = [label(row.name) for row in rows]
    yaxis = {"type": "category", "categoryorder": "array", "categoryarray": names[::-1], "ticksuffix": " "}
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": reference, "x1": reference, "layer": "below"}
    xaxis = {"title": {"text": axis}, "nticks": 5} | _shown(rows, reference)
    layout = drawing.layout(110 + 26 * len(rows) + 12 * sum(name.count("<br>") for name in names), xaxis, yaxis, top=40)
    return Figure(drawn, layout | {"shapes": [line | {"line": drawing.DASHED}]})


def label(name: str) -> str:
    """A name in lines that leave a narrow screen room for the figure.

    >>> label("sft > dpo > math > code > safety")
    'sft &gt; dpo &gt; math &gt;<br>code &gt; safety'
    """
    return "<br>".join(map(escaped, wrap(name, WIDTH, break_long_words=False)))


def _points(rows: Sequence[Dot], look: Look, name: str) -> Drawn:
    colour, symbol = _LOOKS[look]
    return {
        "type": "scatter",
        "x": [row.value for row in rows],
        "y": [label(row.name) for row in rows],
        "name": name,
        "mode": "markers",
        "marker": {"color": colour, "symbol": symbol, "size": 10},
        "legendgroup": look,
        "customdata": [(escaped(row.name), _said(row)) for row in rows],
        "hovertemplate": drawing.HOVER,
    }


def _spans(rows: Sequence[Dot], look: Look) -> list[Drawn]:
    known = [row for row in rows if math.isfinite(row.low) and math.isfinite(row.high)]
    if not known:
        return []
    return [
        {
            "type": "scatter",
            "x": [value for row in known for value in (row.low, row.high, None)],
            "y": [value for row in known for value in (label(row.name), label(row.name), None)],
            "mode": "lines",
            "line": {"color": _LOOKS[look][0], "width": 2},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": look,
        }
    ]


def _said(row: Dot) -> str:
    note = f"<br>{escaped(row.note)}" if row.note else ""
    return f"{words.exact(row.value)}{drawing.interval_text(row.low, row.high)}{note}"


def _shown(rows: Sequence[Dot], reference: float) -> dict[str, list[float]]:
    """The axis: all ends of intervals, but an interval without an end, or far wider than the values lie, is cut."""
    values = [reference, *(row.value for row in rows if math.isfinite(row.value))]
    low, high = min(values), max(values)
    room = 3 * (high - low)
    ends = [end for row in rows for end in (row.low, row.high) if low - room <= end <= high + room]
    first, last = min([low, *ends]), max([high, *ends])
    pad = 0.04 * (last - first)
    return {"range": [first - pad, last + pad]} if pad else {}
