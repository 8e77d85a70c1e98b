"""The picture of each metric: a bar for everything that is done to what it measures. Plain SVG, no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import exp, isnan

from deformed.all import WITHOUT, group_of, response
from deformed.group import Response

from limberlm.geometry import CATALOG, Metric

WIDTH, LABELS, BARS, RIGHT = 760, 262, 300, 12
TOP, BAR, GAP, FOOT = 34, 12, 10, 26
COLOURS = ("#0d9488", "#d97706")
"""Of the first and the second series; at least 3 to 1 against the page in both schemes. The second is striped too."""

SPREADS = 2.0
"""Half the grey band, in standard deviations between draws."""

LEAST = 0.1
"""Least reach of a logarithmic axis, so that a change of one per cent does not look like a collapse."""


def picture(name: str, together: Sequence[str] | None = None) -> str:
    """A figure with the SVG and its caption as HTML, or a sentence that says why there is none.

    `together`: the metrics that are computed in one go, by default all that are shown the same things.
    """
    if name in WITHOUT:
        return WITHOUT[name]
    metric, series = CATALOG[name], response(name, together)
    starts = ", ".join(f"{s.series} {s.start:.3g}".strip() for s in series)
    axis = "on a logarithmic axis, written in per cent" if metric.scale == "log" else "in its own units"
    caption = (
        f"{group_of(metric).about} Value before: {starts}. Bars are changes {axis}. Grey is twice the spread between "
        "draws: a bar inside it is less than another draw would make."
    )
    return (
        f'<figure class="response" data-search-exclude>\n'
        f"{svg(metric, series)}\n"
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>"
    )


def told(metric: Metric, response: Response, deformation: str) -> str:
    """A change in words.

    A change of exactly 0 is one that only rounding would tell apart.
    """
    change = response.changes[deformation]
    if isnan(change):
        return "undefined"
    if change == 0.0:
        return "the same"
    within = _within(response, change)
    size = _percent(change) if metric.scale == "log" else f"{change:+.{2 if within else 3}g}".replace("-", "−")
    return f"{size}, within the spread" if within else size


def _percent(change: float) -> str:
    times = exp(change)
    if times >= 3:
        return f"x {times:.3g}"
    percent = 100 * (times - 1)
    return (f"{percent:+.2g} %" if abs(percent) < 10 else f"{percent:+.0f} %").replace("-", "−")


def _within(response: Response, change: float) -> bool:
    return abs(change) <= SPREADS * response.spread


@dataclass(frozen=True)
class _Axis:
    """From changes to places along the bars."""

    low: float
    high: float

    @classmethod
    def of(cls, series: Sequence[Response], least: float) -> _Axis:
        changes = [change for one in series for change in one.changes.values() if not isnan(change)]
        band = max(one.spread for one in series) * SPREADS
        low, high = min([0.0, *changes]), max([0.0, *changes])
        reach = max(high - low, least)
        room, band = 0.04 * reach or band or 1.0, min(band, reach / 4)  # a spread that dwarfs every change is cut
        low, high = (low, max(high, least)) if high > -low else (min(low, -least), high)
        return cls(min(low - room, -band), max(high + room, band))

    def at(self, change: float) -> float:
        """The x coordinate of a change, inside the frame."""
        kept = min(max(change, self.low), self.high)
        return LABELS + BARS * (kept - self.low) / (self.high - self.low)


def svg(metric: Metric, series: Sequence[Response]) -> str:
    """The drawing alone."""
    names = list(series[0].changes)
    axis = _Axis.of(series, LEAST if metric.scale == "log" else 0.0)
    row = len(series) * BAR + GAP
    height = TOP + row * len(names) + FOOT
    end = TOP + row * len(names)
    parts = _legend(series)
    for number, name in enumerate(names):
        y = TOP + number * row + GAP / 2
        parts.append(_text(LABELS - 10, y + (row - GAP) / 2 + 4, name, anchor="end"))
        for place, one in enumerate(series):
            parts += _bar(metric, axis, one, name, y + place * BAR, COLOURS[place], striped=place == 1)
    zero = axis.at(0.0)
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="{TOP - 4}" y2="{end}" stroke="currentColor"/>')
    parts += [_text(zero, end + 16, "no change", anchor="middle", faint=True)]
    key = metric.name.replace(".", "-")
    return (
        f'<svg role="img" aria-labelledby="{key}-title {key}-desc" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" '
        f'font-family="inherit" font-size="12.5" fill="currentColor" xmlns="http://www.w3.org/2000/svg">\n'
        f'<title id="{key}-title">How {escape(metric.name)} responds</title>\n'
        f'<desc id="{key}-desc">{escape(_in_words(metric, series))}</desc>\n'
        f'<defs><pattern id="{key}-stripes" width="4" height="4" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="4" height="4" fill="{COLOURS[1]}" fill-opacity="0.45"/>'
        f'<rect width="2" height="4" fill="{COLOURS[1]}"/></pattern></defs>\n'
        + "\n".join(parts).replace("#stripes", f"#{key}-stripes")
        + "\n</svg>"
    )


def _in_words(metric: Metric, series: Sequence[Response]) -> str:
    said = []
    for name in series[0].changes:
        values = (f"{one.series} {told(metric, one, name)}".strip() for one in series)
        said.append(f"{name}: {', '.join(values)}")
    return "; ".join(said) + "."


def _legend(series: Sequence[Response]) -> list[str]:
    parts, x = [], float(LABELS)
    for place, one in enumerate(series):
        if one.series:
            fill = "url(#stripes)" if place == 1 else COLOURS[place]
            parts.append(f'<rect x="{x}" y="8" width="14" height="{BAR - 2}" fill="{fill}"/>')
            parts.append(_text(x + 20, 17, one.series))
            x += 44 + 7.5 * len(one.series)
    parts.append(f'<rect x="{x}" y="8" width="14" height="{BAR - 2}" fill="currentColor" fill-opacity="0.16"/>')
    parts.append(_text(x + 20, 17, "spread between draws"))
    return parts


def _band(axis: _Axis, response: Response, y: float) -> str:
    left, right = (axis.at(side * SPREADS * response.spread) for side in (-1, 1))
    return (
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(right - left, 0.5):.1f}" height="{BAR}" '
        f'fill="currentColor" fill-opacity="0.14"/>'
    )


def _bar(
    metric: Metric, axis: _Axis, response: Response, name: str, y: float, colour: str, *, striped: bool
) -> list[str]:
    change, words = response.changes[name], told(metric, response, name)
    parts = [_band(axis, response, y)]
    parts.append(_text(LABELS + BARS + RIGHT, y + BAR - 2, words, faint=change == 0.0 or "spread" in words))
    if not isnan(change) and change != 0.0:
        ends = sorted((axis.at(0.0), axis.at(change)))
        faint = ' fill-opacity="0.45"' if _within(response, change) else ""
        fill = "url(#stripes)" if striped else colour
        parts.append(
            f'<rect class="bar" data-series="{response.series}" data-deformation="{escape(name)}" '
            f'data-change="{change:.6g}" x="{ends[0]:.2f}" y="{y + 1:.1f}" width="{ends[1] - ends[0]:.2f}" '
            f'height="{BAR - 2}" fill="{fill}"{faint}/>'
        )
    return parts


def _text(x: float, y: float, words: str, *, anchor: str = "start", faint: bool = False) -> str:
    shade = ' fill-opacity="0.72"' if faint else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{shade}>{escape(words)}</text>'
