"""Figures of a trace as plain SVG, no script: lines over training with their intervals, phases shaded behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape, unescape
from itertools import pairwise
from typing import Any

import pandas as pd

from limberlm.report import drawing, style
from limberlm.report.trace.axis import Places
from limberlm.report.trace.lines import Line
from limberlm.report.trace.marks import Marks
from limberlm.report.trace.panels import MOST_BANDS, Panel, in_words, mean_of

WIDTH, LEFT, RIGHT, TOP, FOOT, GAP, ROW = 760, 74, 12, 8, 44, 30, 19
CHARACTER = 6.4
"""Width of a character of the legend, in pixels, on average."""


@dataclass(frozen=True)
class _Scale:
    """From values to places; a logarithmic scale if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def line_chart(panels: Sequence[Panel], axis: Places, marks: Marks, title: str) -> str:
    """The panels that have a value, as an SVG with a title and a description; empty if none has.

    Every point has a tooltip of its own (an SVG title) with its exact value and interval.
    """
    panels = [panel for panel in panels if panel.shown]
    if not panels:
        return ""
    left, right = axis.layout()["range"]
    across = _Scale(left, right, LEFT, WIDTH - RIGHT)
    parts: list[str] = []
    y = float(TOP)
    for entries in _rows(_mark_entries(marks)):
        parts += _legend_row(entries, y)
        y += ROW
    for panel in panels:
        parts += _panel(panel, axis, marks, across, y)
        y = _bottom(panel, y) + GAP
    end = y - GAP
    parts += _ticks_across(axis, across, end)
    height = end + FOOT
    key = "".join(c if c.isalnum() else "-" for c in title.lower())
    return (
        f'<svg role="img" aria-labelledby="{key}-title {key}-desc" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" font-family="inherit" font-size="12.5" fill="currentColor" '
        f'xmlns="http://www.w3.org/2000/svg">\n<title id="{key}-title">{escape(title)}</title>\n'
        f'<desc id="{key}-desc">{escape(in_words(panels, axis, marks))}</desc>\n' + "\n".join(parts) + "\n</svg>"
    )


def _bottom(panel: Panel, top: float) -> float:
    return top + ROW * len(_rows(_line_entries(panel))) + panel.height


def _panel(panel: Panel, axis: Places, marks: Marks, across: _Scale, top: float) -> Iterator[str]:
    for entries in _rows(_line_entries(panel)):
        yield from _legend_row(entries, top)
        top += ROW
    up = _value_scale(panel, top + panel.height, top)
    yield from _shades(axis, marks, across, top, panel.height)
    for tick, text in _value_ticks(panel, up):
        y = up.at(tick)
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity="0.12"/>'
        yield _text(LEFT - 8, y + 4, text, anchor="end", faint=True)
    yield from _turned_title(panel.title, top + panel.height / 2)
    for value, _ in panel.levels:
        y = up.at(value)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{style.NULL_COLOUR}" stroke-dasharray="6 4"/>'
    for line in panel.shown:
        yield from _line(line, axis, across, up, band=len(panel.shown) <= MOST_BANDS)
    for part in marks.turns(axis, panel.shown):
        for x, value, said in zip(part["x"], part["y"], part["customdata"], strict=True):
            yield _diamond(across.at(x), up.at(value), said)


def _line(line: Line, axis: Places, across: _Scale, up: _Scale, *, band: bool) -> Iterator[str]:
    colour, several = style.colour(line.position), len(line.runs) > 1
    for run in line.runs:
        known = run.dropna(subset=["value"])
        xs = [across.at(x) for x in axis.at(known["t"])]
        if band and not several:
            yield from _ribbon(known, xs, up, colour)
        yield _curve(xs, [up.at(value) for value in known["value"]], line, 1 if several else 2)
        for x, value, head, text in zip(xs, known["value"], known["label"], known["text"], strict=True):
            said = f"{head}: {text}".replace("<br>", ", ")
            yield (
                f'<circle class="point" cx="{x:.1f}" cy="{up.at(value):.1f}" r="{2 if several else 3}" '
                f'fill="{colour}" data-value="{value:.10g}"><title>{said}</title></circle>'
            )

    if several and line.mean:
        mean = mean_of(line)
        xs = [across.at(x) for x in axis.at(mean.index)]
        yield _curve(xs, [up.at(value) for value in mean], line, 3)


def _curve(xs: Sequence[float], ys: Sequence[float], line: Line, width: int) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return (
        f'<polyline class="line" points="{points}" fill="none" stroke="{style.colour(line.position)}" '
        f'stroke-width="{width}" stroke-dasharray="{DASHES[style.dash(line.position)]}"/>'
    )


DASHES = {"solid": "none", "dash": "7 4", "dot": "2 3"}


def _ribbon(run: pd.DataFrame, xs: Sequence[float], up: _Scale, colour: str) -> Iterator[str]:
    bands = [
        (x, up.at(low), up.at(high))
        for x, low, high in zip(xs, run["low"], run["high"], strict=True)
        if math.isfinite(low) and math.isfinite(high)
    ]
    if len(bands) > 1:
        edge = [f"{x:.1f},{high:.1f}" for x, _, high in bands] + [f"{x:.1f},{low:.1f}" for x, low, _ in bands[::-1]]
        yield f'<polygon class="band" points="{" ".join(edge)}" fill="{colour}" fill-opacity="0.18"/>'


def _shades(axis: Places, marks: Marks, across: _Scale, top: float, height: float) -> Iterator[str]:
    for shape in marks.shapes(axis):
        left, right = across.at(shape["x0"]), across.at(shape["x1"])
        if shape["type"] == "line":
            dash = {"dash": "6 4", "dot": "2 3"}.get(shape["line"]["dash"], "8 3 2 3")
            yield (
                f'<path d="M{left:.1f} {top:.1f}v{height}" stroke="{shape["line"]["color"]}" stroke-width="1.4" '
                f'stroke-dasharray="{dash}"/>'
            )
        else:
            yield (
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.5):.1f}" height="{height}" '
                f'fill="{shape["fillcolor"]}"/>'
            )


def _diamond(x: float, y: float, said: tuple[str, str]) -> str:
    text = ": ".join(said).replace("<br>", ", ")
    return (
        f'<path class="turn" d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z" fill="none" stroke="currentColor" '
        f'stroke-width="1.6" pointer-events="all"><title>{text}</title></path>'
    )


def _value_scale(panel: Panel, bottom: float, top: float) -> _Scale:
    columns = [
        run[name].astype(float) for line in panel.shown for run in line.runs for name in ("value", "low", "high")
    ]
    values = pd.concat([*columns, pd.Series([value for value, _ in panel.levels], dtype=float)])
    values = values[[math.isfinite(value) for value in values]]
    log = drawing.value_axis("", values, panel.log).get("type") == "log"
    low, high = float(values.min()), float(values.max())
    low, high = (math.log10(low), math.log10(high)) if log else (low, high)
    room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return _Scale(low - room, high + room, bottom, top, log)


def _value_ticks(panel: Panel, up: _Scale) -> list[tuple[float, str]]:
    if up.log:
        found = drawing.log_ticks(10**up.low, 10**up.high)
        return [(tick, f"{tick:g}") for tick in found if up.low <= math.log10(tick) <= up.high]
    step = 10 ** math.floor(math.log10((up.high - up.low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (up.high - up.low) / (step * factor) <= 6)
    first = math.ceil(up.low / step)
    decimals = max(0, -math.floor(math.log10(step)))
    ticks = [number * step for number in range(first, math.floor(up.high / step) + 1)]
    return [(tick, f"{tick:.{decimals}f}".replace("-", "−")) for tick in ticks]


def _ticks_across(axis: Places, across: _Scale, end: float) -> Iterator[str]:
    layout = axis.layout()
    for place, text in zip(layout["tickvals"], layout["ticktext"], strict=True):
        yield _text(across.at(place), end + 17, text.replace("<br>", " "), anchor="middle", faint=True)
    yield _text((LEFT + WIDTH - RIGHT) / 2, end + 37, layout["title"]["text"], anchor="middle")


def _turned_title(title: str, y: float) -> Iterator[str]:
    rows = title.split("<br>")
    for number, row in enumerate(rows):
        place = f"translate({13 + 15 * number} {y:.0f}) rotate(-90)"
        yield f'<text transform="{place}" text-anchor="middle">{escape(unescape(row))}</text>'


Entry = tuple[str, str, dict[str, Any]]


def _line_entries(panel: Panel) -> list[Entry]:
    lines = panel.shown if len(panel.shown) > 1 else []
    found: list[Entry] = [
        (line.name, "line", {"colour": style.colour(line.position), "dash": DASHES[style.dash(line.position)]})
        for line in lines
    ]
    return found + [(name, "line", {"colour": style.NULL_COLOUR, "dash": "6 4"}) for _, name in panel.levels]


def _mark_entries(marks: Marks) -> list[Entry]:
    found: list[Entry] = []
    for part in marks.legend():
        if part["mode"] == "markers":
            found.append((unescape(part["name"]), "square", {"colour": part["marker"]["color"]}))
        else:
            found.append((unescape(part["name"]), "line", {"colour": part["line"]["color"], "dash": "6 4"}))
    return found


def _width(entry: Entry) -> float:
    return 46 + CHARACTER * len(entry[0])


def _rows(entries: Sequence[Entry]) -> list[list[Entry]]:
    rows: list[list[Entry]] = []
    for entry in entries:
        if rows and sum(map(_width, rows[-1])) + _width(entry) <= WIDTH - LEFT - RIGHT:
            rows[-1].append(entry)
        else:
            rows.append([entry])
    return rows


def _legend_row(entries: Sequence[Entry], y: float) -> Iterator[str]:
    ends = [LEFT + sum(map(_width, entries[:i])) for i in range(len(entries) + 1)]
    for (name, kind, look), (x, _) in zip(entries, pairwise(ends), strict=True):
        if kind == "square":
            yield f'<rect x="{x:.0f}" y="{y:.0f}" width="14" height="12" fill="{look["colour"]}"/>'
        else:
            yield (
                f'<path d="M{x:.0f} {y + 6:.0f}h22" stroke="{look["colour"]}" stroke-width="2" '
                f'stroke-dasharray="{look["dash"]}"/>'
            )
        yield _text(x + 28, y + 10, name)


def _text(x: float, y: float, words: str, *, anchor: str = "start", faint: bool = False) -> str:
    shade = ' fill-opacity="0.72"' if faint else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shade}>{escape(words)}</text>'
