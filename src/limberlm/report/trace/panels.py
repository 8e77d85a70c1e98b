"""Lines over training, in panels one above the other on one axis, with phases shaded and turning points marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from limberlm.report import drawing, words
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.trace.axis import Places
from limberlm.report.trace.lines import Line
from limberlm.report.trace.marks import Marks

TOP, BOTTOM, GAP = 34, 50, 26
MOST_BANDS = 3
"""Lines in a panel from which on their bands would hide each other; hovers tell the intervals then."""

SEED_WIDTH, MEAN_WIDTH = 1.1, 3.2


@dataclass(frozen=True)
class Panel:
    """A plot of its own height within a figure; `levels` are dashed reference values with their names."""

    title: str
    lines: Sequence[Line]
    height: int = 240
    log: bool = False
    levels: Sequence[tuple[float, str]] = field(default_factory=tuple)

    @property
    def shown(self) -> list[Line]:
        """The lines with a value."""
        return [line for line in self.lines if any(run["value"].notna().any() for run in line.runs)]


def stack(panels: Sequence[Panel], axis: Places, marks: Marks, *, explained: bool = False) -> Figure | None:
    """The panels that have a value, first on top; None if none has. `explained`: the legend names the marks too."""
    panels = [panel for panel in panels if panel.shown]
    if not panels:
        return None
    inner = sum(panel.height for panel in panels) + GAP * (len(panels) - 1)
    layout = drawing.layout(inner + TOP + BOTTOM, axis.layout() | {"anchor": _axis(len(panels))}, {}, top=TOP)
    layout["shapes"] = marks.shapes(axis)
    drawn: list[Drawn] = marks.legend() if explained else []
    end = float(inner)
    for number, panel in enumerate(panels, start=1):
        name = _axis(number)
        domain = [max(0.0, (end - panel.height) / inner), end / inner]
        end -= panel.height + GAP
        layout["yaxis" + name[1:]] = _value_axis(panel) | {"domain": domain, "anchor": "x"}
        count = len(panel.shown)
        parts = [part for line in panel.shown for part in _line(line, axis, named=count > 1, band=count <= MOST_BANDS)]
        parts += [_level(value, said, axis) for value, said in panel.levels]
        parts += marks.turns(axis, panel.shown)
        drawn += [part | {"xaxis": "x", "yaxis": name} for part in parts]
    return Figure(drawn, layout)


def _axis(number: int) -> str:
    """Plotly's name of a panel's axis of values."""
    return "y" if number == 1 else f"y{number}"


def in_words(panels: Sequence[Panel], axis: Places, marks: Marks) -> str:
    """What the figure shows, for those who do not see it: ends, extremes and marks of every line."""
    said = [_told(line, axis) for panel in panels for line in panel.shown]
    said += [f"{name}: {value:g}." for panel in panels for value, name in panel.levels if panel.shown]
    return " ".join([*said, *marks.in_words(axis)])


def _told(line: Line, axis: Places) -> str:
    parts = []
    for number, run in enumerate(line.runs, start=1):
        known = run.dropna(subset=["value"])
        points = list(zip(known["value"].tolist(), known["t"].tolist(), strict=True))
        if points:
            seed = f" (seed {number} of {len(line.runs)})" if len(line.runs) > 1 else ""
            chosen = (points[0], min(points), max(points), points[-1])
            first, lowest, highest, last = (f"{words.number(value)} at {axis.say(t)}" for value, t in chosen)
            parts.append(f"{line.name}{seed}: {first}; lowest {lowest}; highest {highest}; {last}.")
    return " ".join(parts)


def _line(line: Line, axis: Places, *, named: bool, band: bool) -> list[Drawn]:
    drawn: list[Drawn] = []
    for run in line.runs:
        known = run.dropna(subset=["value"])
        if band and len(line.runs) == 1:
            drawn += drawing.ribbon(known.assign(x=axis.at(known["t"])), line.position, line.name)
        drawn.append(_curve(line, known, axis, thin=len(line.runs) > 1))
    if len(line.runs) > 1 and line.mean:
        drawn.append(_mean(line, axis))
    first = next(i for i, part in enumerate(drawn) if "mode" in part and part.get("name"))
    return [
        part | {"showlegend": named and i == first, "legendgroup": escaped(line.name)} for i, part in enumerate(drawn)
    ]


def _curve(line: Line, run: pd.DataFrame, axis: Places, *, thin: bool) -> Drawn:
    x, y = axis.at(run["t"]).tolist(), run["value"].tolist()
    curve = drawing.line(x, y, escaped(line.name), line.position, line.name)
    curve["customdata"] = list(zip(run["label"], run["text"], strict=True))
    curve["marker"] = curve["marker"] | {"size": 4 if thin else 6}
    if thin:
        curve["line"] = curve["line"] | {"width": SEED_WIDTH}
        curve["opacity"] = 0.55
    return curve


def mean_of(line: Line) -> pd.Series:
    """The mean over seeds, by t, at the checkpoints that all of them have."""
    runs = [run.set_index("t")["value"] for run in line.runs]
    values = pd.concat(runs, axis=1, join="inner").dropna().sort_index()
    return np.exp(np.log(values).mean(axis=1)) if line.log else values.mean(axis=1)


def _mean(line: Line, axis: Places) -> Drawn:
    mean = mean_of(line)
    curve = drawing.line(axis.at(mean.index).tolist(), mean.tolist(), escaped(line.name), line.position, line.name)
    kind = "geometric mean" if line.log else "mean"
    curve["customdata"] = [
        (f"{kind} of {len(line.runs)} seeds, {axis.say(t)}", f"{escaped(line.name)}: {words.exact(value)}")
        for t, value in zip(mean.index.tolist(), mean.tolist(), strict=True)
    ]
    return curve | {"mode": "lines", "line": curve["line"] | {"width": MEAN_WIDTH}}


def _level(value: float, name: str, axis: Places) -> Drawn:
    left, right = axis.layout()["range"]
    return {
        "type": "scatter",
        "x": np.linspace(left, right, 60).tolist(),
        "y": [value] * 60,
        "mode": "lines",
        "name": escaped(name),
        "line": drawing.DASHED,
        "customdata": [(escaped(name), words.number(value))] * 60,
        "hovertemplate": drawing.HOVER,
        "showlegend": True,
    }


def _value_axis(panel: Panel) -> dict[str, Any]:
    columns = [run[name] for line in panel.shown for run in line.runs for name in ("value", "low", "high")]
    values = pd.concat([column.astype(float) for column in columns]).replace([math.inf, -math.inf], math.nan)
    return drawing.value_axis(panel.title, values.dropna(), panel.log)
