"""Geometry over training: effective rank, spectral exponent, head and bands, spectra, and the map over layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from limberlm.analysis.direction import ALPHA, HEAD_REMOVED, RANK
from limberlm.analysis.wording import short
from limberlm.observe.names import BAND, LOGITS
from limberlm.report import drawing, style, words
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.trace.data import SPECTRA, Stage, Trace
from limberlm.report.trace.lines import ALPHA_LINE, PAPER_NAME, RANK_LINE, Line, metric_line, metric_name, outcome_lines
from limberlm.report.trace.panels import Panel

HEADS = (1, 2, 8, 32)
BANDS = ("alpha_band_32_128", "alpha_band_128_512", "alpha_band_512")
SHARES = ("mean_share", "variance_share_1", "variance_share_8")
MAPPED = (RANK, ALPHA, HEAD_REMOVED, "participation_ratio_debiased", "anisotropy")
FIT_WINDOW = (12, 100)
FEW = 5
Cell = dict[Any, Any]
"""The row of one site at one checkpoint."""


def rank_panels(runs: Sequence[Trace], stages: Sequence[Stage], mean: bool) -> list[Panel]:
    """Effective rank, alpha-ReQ and the held-out losses of one stage, one trace per seed."""
    rank = metric_line(runs, stages, RANK, RANK_LINE, 1, mean)
    alpha = metric_line(runs, stages, ALPHA, ALPHA_LINE, 2, mean)
    losses = outcome_lines(runs, stages, "loss", mean, first=3, unit=" nats per token")
    return [
        Panel(f"Effective rank<br>({PAPER_NAME})", [rank], 280, log=True),
        Panel("alpha-ReQ<br>(ranks 12–100)", [alpha], 200),
        Panel(f"{_loss_title(losses)}<br>(nats per token)", losses, 170),
    ]


def _loss_title(losses: Sequence[Line]) -> str:
    return f"Loss on {escaped(losses[0].name)}" if len(losses) == 1 else "Held-out loss"


def head_panels(runs: Sequence[Trace], stages: Sequence[Stage], mean: bool) -> list[Panel]:
    """Effective rank with its leading directions removed, exponents by band, and what the head holds."""

    def line(metric: str, name: str, position: int) -> Line:
        return metric_line(runs, stages, metric, name, position, mean)

    ranks = [line(RANK, "all directions", 0)]
    for position, k in enumerate(HEADS, start=1):
        name = f"without the top {k}" if k > 1 else "without the top direction"
        ranks.append(line(f"head_removed_rank_{k}", name, position))
    alphas = [line(ALPHA, "ranks 12–100", 2)]
    for position, metric in enumerate(BANDS, start=3):
        name = words.metric_title(metric).removeprefix("Exponent over ").replace("-", "–")
        alphas.append(line(metric, name, position))
    shares = [line(metric, words.metric_title(metric).lower(), place) for place, metric in enumerate(SHARES, start=1)]
    return [
        Panel("Effective rank", ranks, 280, log=True),
        Panel("Exponent", alphas, 220),
        Panel("Share", shares, 190),
    ]


def layer_map(trace: Trace, stage: Stage, metric: str, convention: str) -> Figure | None:
    """A metric at every site over a stage; None unless several sites were read."""
    table = trace.geometry
    rows = table[
        (table["stage"] == stage.name)
        & (table["convention"] == convention)
        & ~table["site"].isin([BAND, LOGITS])
        & table["metric"].isin([metric, metric + words.CORRECTED])
    ]
    rows = rows.sort_values("metric", key=lambda names: ~names.str.endswith(words.CORRECTED), kind="stable")
    rows = rows.drop_duplicates(["site", "step"]).merge(stage.checkpoints[["step", "t"]], on="step")
    sites = list(dict.fromkeys(rows.sort_values("depth", kind="stable")["site"]))
    if len(sites) < 2 or rows["t"].nunique() < 2:
        return None
    steps = sorted(rows["t"].unique())
    cells: dict[tuple[str, float], Cell] = {(row["site"], row["t"]): row for row in rows.to_dict("records")}
    grid = [[cells.get((site, t)) for t in steps] for site in sites]
    hovers = [
        [_cell_text(trace, stage, site, t, cell, metric) for t, cell in zip(steps, row, strict=True)]
        for site, row in zip(sites, grid, strict=True)
    ]
    heights = [[_height(cell, metric) for cell in row] for row in grid]
    names = [escaped(words.site_title(site)) for site in sites]
    heatmap = drawing.heatmap(heights, list(range(len(steps))), names, hovers, style.CIVIDIS, gap=1)
    heatmap["colorbar"] = _colour_bar(grid, metric)
    named = few(len(steps))
    ticks = {"tickvals": named, "ticktext": [short(steps[place]) for place in named]}
    xaxis = {
        "title": {"text": f"{stage.axis.title}, checkpoint by checkpoint"},
        "showgrid": False,
        "tickangle": 0,
    } | ticks
    yaxis = {"type": "category", "showgrid": False}
    return Figure([heatmap], drawing.layout(130 + 26 * len(sites), xaxis, yaxis, top=16))


def _height(cell: Cell | None, metric: str) -> float | None:
    value = math.nan if cell is None else float(cell["value"])
    if math.isnan(value):
        return None
    return math.log10(value) if words.is_ratio(metric) and value > 0 else value


def _cell_text(trace: Trace, stage: Stage, site: str, t: float, cell: Cell | None, metric: str) -> str:
    head = f"<b>{escaped(trace.name)}, {stage.axis.say(t)}</b><br>{escaped(words.site_title(site))}<br>"
    if cell is None:
        return head + "not measured"
    span = drawing.interval_text(cell["low"], cell["high"]) or "<br>no interval"
    return f"{head}{escaped(metric_name(metric))}: {words.exact(cell['value'])}{span}"


def _colour_bar(grid: Sequence[Sequence[Cell | None]], metric: str) -> dict[str, object]:
    bar: dict[str, object] = {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 11}}
    values = [float(cell["value"]) for row in grid for cell in row if cell is not None]
    positive = [value for value in values if value > 0]
    if not (words.is_ratio(metric) and positive):
        return bar
    ticks = drawing.log_ticks(min(positive), max(positive))
    return bar | {"tickvals": [math.log10(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}


def spectrum(trace: Trace, stage: Stage) -> Figure | None:
    """Eigenvalues by rank at a few checkpoints, as shares, with the fit window shaded; None if none are kept."""
    table = trace.tables[SPECTRA]
    site, convention = trace.place()
    here = (table["stage"] == stage.name) & (table["site"] == site) & (table["convention"] == convention)
    rows = table[here].merge(stage.checkpoints[["step", "t"]], on="step").sort_values(["t", "rank"])
    if rows.empty:
        return None
    steps = sorted(rows["t"].unique())
    chosen = [steps[place] for place in few(len(steps))]
    drawn = [_spectrum_line(trace, stage, rows[rows["t"] == t], t, i) for i, t in enumerate(chosen)]
    layout = drawing.layout(
        430,
        {"title": {"text": "Rank of the eigenvalue"}, "type": "log", "dtick": 1},
        {"title": {"text": "Share of the variance"}, "type": "log", "dtick": 1, "exponentformat": "power"},
    )
    left, right = (math.log10(rank) for rank in FIT_WINDOW)
    shade = {"type": "rect", "xref": "x", "yref": "paper", "x0": FIT_WINDOW[0], "x1": FIT_WINDOW[1], "y0": 0, "y1": 1}
    if rows["rank"].max() >= FIT_WINDOW[0] and right > left:
        fill = style.translucent(style.BASE_COLOUR, 0.1)
        layout["shapes"] = [shade | {"fillcolor": fill, "line": {"width": 0}, "layer": "below"}]
    return Figure(drawn, layout)


def few(total: int, count: int = FEW) -> list[int]:
    """At most `count` places among `total`, evenly spread, both ends among them.

    >>> few(9), few(3)
    ([0, 2, 4, 6, 8], [0, 1, 2])
    """
    return sorted({round(place) for place in np.linspace(0, total - 1, min(count, total))})


def _spectrum_line(trace: Trace, stage: Stage, rows: pd.DataFrame, t: float, place: int) -> Drawn:
    shares = rows["eigenvalue"] / rows["eigenvalue"].sum()
    known = shares > 0
    name = stage.axis.say(t)
    line = drawing.line(rows.loc[known, "rank"].tolist(), shares[known].tolist(), name, place, name)
    head = escaped(f"{trace.name}, {stage.name}, {name}")
    line["customdata"] = [
        (head, f"eigenvalue {rank}: {words.exact(share)} of the variance")
        for rank, share in zip(rows.loc[known, "rank"], shares[known], strict=True)
    ]
    return line | {"mode": "lines"}
