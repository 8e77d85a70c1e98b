"""The figures: pure functions from a run's rows to a Plotly figure. The page brings the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from limberlm.observe.sites import BAND, BAND_HIGH, BAND_LOW, FINAL_NORM
from limberlm.report import style, traces, words
from limberlm.report.data import Stage
from limberlm.report.traces import Trace, plain

STAGE_AXIS = {"title": {"text": "Stage, in training order"}, "type": "category"}
LOSS_AXIS = {"title": {"text": "Held-out loss (nats per token)"}}


def accuracy_heatmap(frame: pd.DataFrame, stages: Sequence[Stage]) -> go.Figure | None:
    """Accuracy of every task and split after every stage; None if no accuracy was measured."""
    rows = frame[frame["outcome"].isin(["accuracy", "pair_accuracy"])].dropna(subset=["value"])
    if rows.empty:
        return None
    keys = zip(rows["outcome"], rows["task"], rows["split"], strict=True)
    cells = {
        (_task_name(*key), row["stage_index"]): row for key, row in zip(keys, rows.to_dict("records"), strict=True)
    }
    tasks = list(dict.fromkeys(task for task, _ in cells))
    measured = {index for _, index in cells}
    stages = [stage for stage in stages if stage.index in measured]
    grid = [[cells.get((task, stage.index)) for stage in stages] for task in tasks]
    heatmap = {
        "type": "heatmap",
        "z": [[cell and cell["value"] for cell in row] for row in grid],
        "x": [plain(stage.label) for stage in stages],
        "y": tasks,
        "text": [[f"{100 * cell['value']:.0f} %" if cell else "" for cell in row] for row in grid],
        "texttemplate": "%{text}",
        "textfont": {"color": "#1b1f23"},
        "customdata": [
            [_accuracy_hover(task, stage, cell) for stage, cell in zip(stages, row, strict=True)]
            for task, row in zip(tasks, grid, strict=True)
        ],
        "hovertemplate": "%{customdata}<extra></extra>",
        "colorscale": [list(stop) for stop in style.SEQUENTIAL],
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "showscale": False,
    }
    yaxis = {"autorange": "reversed", "showgrid": False, "type": "category"}
    return go.Figure([heatmap], traces.layout(80 + 42 * len(tasks), STAGE_AXIS | {"showgrid": False}, yaxis, top=28))


def loss_by_stage(frame: pd.DataFrame, stages: Sequence[Stage]) -> go.Figure | None:
    """Held-out loss of every task, in domain, after every stage, one line per task; None if none was measured."""
    rows = frame[(frame["outcome"] == "loss") & (frame["split"] == "in_domain")].dropna(subset=["value"])
    if rows.empty:
        return None
    labels = {stage.index: plain(stage.label) for stage in stages}
    rows = rows.assign(x=rows["stage_index"].map(labels)).sort_values("stage_index", kind="stable")
    drawn: list[Trace] = []
    for position, (task, own) in enumerate(rows.groupby("task", sort=False), start=1):
        drawn += traces.bars(own, style.colour(position), position)
        drawn.append(_loss_line(own, own["x"].tolist(), plain(task), position, position))
    axis = STAGE_AXIS | {"categoryorder": "array", "categoryarray": list(labels.values())}
    return go.Figure(drawn, traces.layout(320, axis, LOSS_AXIS))


def plasticity_curve(frame: pd.DataFrame, stages: Sequence[Stage], task: str) -> go.Figure:
    """Held-out loss while a fresh adapter learns one future task, one line per stage it starts from."""
    rows = frame[(frame["outcome"] == "future_loss") & (frame["task"] == task)].sort_values("step")
    drawn = []
    for position, stage in enumerate(stages):
        own = rows[rows["stage_index"] == stage.index]
        if len(own):
            steps = own["step"].astype(float).tolist()
            drawn.append(_loss_line(own, steps, plain(stage.label), position, stage.index))
    return go.Figure(drawn, traces.layout(340, {"title": {"text": "Steps on the future task"}}, LOSS_AXIS))


def training_loss(frame: pd.DataFrame, position: int) -> go.Figure:
    """The trainer's own loss over the steps of one stage, in the colour of its place in the run."""
    rows = frame.dropna(subset=["loss"]).sort_values("step")
    curve = traces.line(rows["step"].tolist(), rows["loss"].tolist(), "", position, "") | {
        "mode": "lines" if len(rows) > 40 else "lines+markers",
        "marker": {"color": style.colour(position), "size": 5},
        "hovertemplate": "step %{x}: loss %{y:.6g}<extra></extra>",
        "showlegend": False,
    }
    xaxis, yaxis = {"title": {"text": "Step"}}, {"title": {"text": "Training loss (nats)"}}
    return go.Figure([curve], traces.layout(230, xaxis, yaxis, top=10))


def _loss_line(rows: pd.DataFrame, x: Sequence[Any], label: str, position: int, group: object) -> Trace:
    places = [place if isinstance(place, str) else f"step {words.number(place)}" for place in x]
    texts = [
        f"{place}: {words.number(loss, 6)} nats per token{traces.interval_text(low, high)}"
        for place, loss, low, high in zip(places, rows["value"], rows["low"], rows["high"], strict=True)
    ]
    curve = traces.line(x, rows["value"].tolist(), label, position, group)
    return curve | {"customdata": [(label, text) for text in texts]}


def _task_name(outcome: str, task: object, split: object) -> str:
    kind = ", pairs" if outcome == "pair_accuracy" else ""
    where = split.replace("_", " ") if isinstance(split, str) else ""
    return plain(f"{task}{kind}") + (f"<br>{plain(where)}" if where else "")


def _accuracy_hover(task: str, stage: Stage, cell: dict[Any, Any] | None) -> str:
    head = f"<b>{plain(stage.label)}</b><br>{task.replace('<br>', ', ')}: "
    if cell is None:
        return head + "not measured"
    count = "" if math.isnan(cell["n"]) else f"<br>{cell['n']:.0f} questions"
    span = traces.interval_text(100 * cell["low"], 100 * cell["high"], " %")
    return f"{head}{words.number(100 * cell['value'])} %{span}{count}"
