"""Figures, and the parts that they are put together from: lines, interval bars, ribbons, axes.

Plain data, which the page's own script hands to Plotly. Stage, task and site names are the user's and are escaped:
Plotly reads a small HTML of its own in texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from limberlm.report import style, words

Drawn = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What Plotly reads: what is drawn, and the layout around it. The page brings the template."""

    data: Sequence[Drawn]
    layout: Mapping[str, Any]


DASHED = {"color": style.NULL_COLOUR, "width": 1.5, "dash": "dash"}
"""A line that is a reference, not a measurement."""

HOVER = "<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>"


def escaped(text: object) -> str:
    """A user's text for a Plotly label.

    >>> escaped("a<b>")
    'a&lt;b&gt;'
    """
    return escape(str(text), quote=False)


def line(x: Sequence[Any], y: Sequence[Any], name: str, position: int, group: object) -> Drawn:
    """A line with markers in the style of a position; `group` ties it to its ribbon and bars when hidden."""
    colour = style.colour(position)
    return {
        "type": "scatter",
        "x": list(x),
        "y": list(y),
        "name": name,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2, "dash": style.dash(position)},
        "marker": {"color": colour, "symbol": style.symbol(position), "size": 7},
        "legendgroup": str(group),
        "hovertemplate": HOVER,
    }


def bars(rows: pd.DataFrame, colour: str, group: object = "") -> list[Drawn]:
    """Intervals at `x` as bars from low to high. Not as error bars: a value may lie outside its interval."""
    known = rows.dropna(subset=["low", "high"])
    if known.empty:
        return []
    ends = [(x, low, high) for x, low, high in zip(known["x"], known["low"], known["high"], strict=True)]
    return [
        {
            "type": "scatter",
            "x": [value for x, _, _ in ends for value in (x, x, None)],
            "y": [value for _, low, high in ends for value in (low, high, None)],
            "mode": "lines+markers",
            "line": {"color": colour, "width": 1.6},
            "marker": {"color": colour, "symbol": "line-ew-open", "size": 9},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": str(group),
        }
    ]


def ribbon(rows: pd.DataFrame, position: int, group: object) -> list[Drawn]:
    """The intervals along `x` as a band of colour."""
    known = rows.dropna(subset=["low", "high"])
    if len(known) < 2:
        return []
    x = known["x"].tolist()
    return [
        {
            "type": "scatter",
            "x": x + x[::-1],
            "y": known["high"].tolist() + known["low"].tolist()[::-1],
            "fill": "toself",
            "fillcolor": style.translucent(style.colour(position), 0.14),
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": str(group),
        }
    ]


def heatmap(
    z: Sequence[Sequence[float | None]],
    x: Sequence[Any],
    y: Sequence[str],
    hovers: Sequence[Sequence[str]],
    colours: Sequence[tuple[float, str]],
    gap: int = 2,
) -> Drawn:
    """Cells of colour, each of which tells its own text."""
    return {
        "type": "heatmap",
        "z": z,
        "x": x,
        "y": y,
        "customdata": hovers,
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": [list(stop) for stop in colours],
        "xgap": gap,
        "ygap": gap,
    }


def printed(text: Sequence[Sequence[str]], least: float, most: float) -> Drawn:
    """What a heatmap has besides where its cells show their values, so that it needs no colour bar."""
    return {
        "text": text,
        "texttemplate": "%{text}",
        "textfont": {"color": "#1b1f23"},
        "zmin": least,
        "zmax": most,
        "showscale": False,
    }


def interval_text(low: float, high: float, unit: str = "") -> str:
    """A line for a hover label that gives an interval; empty if there is none."""
    span = words.interval(low, high, words.exact)
    return f"<br>95 % interval {span}{unit}" if span else ""


def value_axis(title: str, values: pd.Series, log_if_wide: bool) -> dict[str, Any]:
    """A value axis: logarithmic with round ticks if asked and the values span more than a factor of four."""
    shown = values[np.isfinite(values.astype(float))]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (math.nan, math.nan)
    if not (log_if_wide and low > 0 and high / low > 4):
        return {"title": {"text": title}}
    ticks = log_ticks(low, high)
    return {
        "title": {"text": title},
        "type": "log",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def layout(height: int, xaxis: Mapping[str, Any], yaxis: Mapping[str, Any], top: int = 44) -> dict[str, Any]:
    """A figure's layout: the legend above the plot, where it takes no width from a narrow screen."""
    return {
        "height": height,
        "xaxis": dict(xaxis),
        "yaxis": dict(yaxis),
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 10, "r": 10, "t": top, "b": 46},
    }


def log_ticks(low: float, high: float) -> list[float]:
    """Round ticks for a logarithmic axis: over about one decade Plotly's own read "2, 5, 100, 2"."""
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 30 else (1, 3) if high / low < 1000 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**e for e in exponents for step in steps if low / 1.2 <= step * 10.0**e <= high * 1.2]
