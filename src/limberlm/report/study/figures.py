"""The figures: pure functions from a run's rows to a Plotly figure. The page brings the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from limberlm.outcomes.samples import OUT_OF_DOMAIN
from limberlm.report import drawing, style, words
from limberlm.report.drawing import Drawn, Figure, escaped
from limberlm.report.study.changes import Change
from limberlm.report.study.data import Stage
from limberlm.report.study.yardsticks import Yardstick

STAGE_AXIS = {"title": {"text": "Stage, in training order"}, "type": "category"}
LOSS_AXIS = {"title": {"text": "Held-out loss (nats per token)"}}


def accuracy_heatmap(
    frame: pd.DataFrame, stages: Sequence[Stage], targets: Mapping[str, str] | None = None
) -> Figure | None:
    """Accuracy of every task and split after every stage, bold where the stage trained the task; None without any.

    `targets` are the tasks that stages train, by the stage's name, where that is not the task's.
    """
    rows = in_domain_first(frame[frame["outcome"].isin(["accuracy", "pair_accuracy"])].dropna(subset=["value"]))
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
    trained = [(targets or {}).get(stage.name, stage.name) for stage in stages]
    hovers = [
        [_accuracy_hover(task, stage, cell) for stage, cell in zip(stages, row, strict=True)]
        for task, row in zip(tasks, grid, strict=True)
    ]
    texts = [[_accuracy_text(cell, task) for cell, task in zip(row, trained, strict=True)] for row in grid]
    values = [[cell["value"] if cell else None for cell in row] for row in grid]
    names = [escaped(stage.label) for stage in stages]
    heatmap = drawing.heatmap(values, names, tasks, hovers, style.SEQUENTIAL) | drawing.printed(texts, 0, 1)
    yaxis = {"autorange": "reversed", "showgrid": False, "type": "category"}
    return Figure([heatmap], drawing.layout(80 + 42 * len(tasks), STAGE_AXIS | {"showgrid": False}, yaxis, top=28))


def in_domain_first(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of outcomes, those out of domain last."""
    return rows.sort_values("split", key=lambda split: split == OUT_OF_DOMAIN, kind="stable")


def loss_by_stage(frame: pd.DataFrame, stages: Sequence[Stage]) -> Figure | None:
    """Held-out loss of every task, in domain, after every stage, one line per task; None if none was measured."""
    rows = frame[(frame["outcome"] == "loss") & (frame["split"] == "in_domain")].dropna(subset=["value"])
    if rows.empty:
        return None
    labels = {stage.index: escaped(stage.label) for stage in stages}
    rows = rows.assign(x=rows["stage_index"].map(labels)).sort_values("stage_index", kind="stable")
    drawn: list[Drawn] = []
    for position, (task, own) in enumerate(rows.groupby("task", sort=False), start=1):
        drawn += drawing.bars(own, style.colour(position), position)
        drawn.append(_loss_line(own, own["x"].tolist(), escaped(task), position, position))
    axis = STAGE_AXIS | {"categoryorder": "array", "categoryarray": list(labels.values())}
    return Figure(drawn, drawing.layout(320, axis, LOSS_AXIS))


def changes_by_stage(found: Sequence[Yardstick], metric: str) -> Figure:
    """What training changed at each stage, and what an update of the same size in random directions did."""
    own = [each for each in found if each.metric == metric]
    labels = [escaped(each.stage) for each in own]
    drawn: list[Drawn] = []
    for position, name, changes in (
        (1, "trained", [each.trained for each in own]),
        (0, "random directions", [each.random for each in own]),
    ):
        rows = pd.DataFrame(
            {
                "x": [i + (0.12 if position == 0 else -0.12) for i in range(len(own))],
                "value": [_shown(change, change.value) for change in changes],
                "low": [_shown(change, change.low) for change in changes],
                "high": [_shown(change, change.high) for change in changes],
            }
        )
        drawn += drawing.bars(rows, style.colour(position), name)
        points = drawing.line(rows["x"].tolist(), rows["value"].tolist(), name, position, name)
        texts = [
            (label, f"{name}: {change.text}" + (f"<br>95 % interval {change.interval}" if change.interval else ""))
            for label, change in zip(labels, changes, strict=True)
        ]
        drawn.append(points | {"mode": "markers", "customdata": texts})
    unit = "change, %" if words.is_ratio(metric) else "change"
    xaxis = STAGE_AXIS | {
        "type": "linear",
        "tickvals": list(range(len(own))),
        "ticktext": labels,
        "range": [-0.5, len(own) - 0.5],
        "title": {"text": "Stage"},
    }
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "layer": "below"}
    figure = drawing.layout(300, xaxis, {"title": {"text": unit}})
    return Figure(drawn, figure | {"shapes": [zero | {"line": drawing.DASHED}]})


def plasticity_curve(frame: pd.DataFrame, stages: Sequence[Stage], task: str, outcome: str = "future_loss") -> Figure:
    """Held-out loss while a fresh adapter learns one future task, one line per stage it starts from.

    `frame` holds one run's rows at one learning rate.
    """
    rows = frame[(frame["outcome"] == outcome) & (frame["task"] == task)].sort_values("step")
    drawn = []
    for position, stage in enumerate(stages):
        own = rows[rows["stage_index"] == stage.index]
        if len(own):
            steps = own["step"].astype(float).tolist()
            drawn.append(_loss_line(own, steps, escaped(stage.label), position, stage.index))
    return Figure(drawn, drawing.layout(340, {"title": {"text": "Steps on the future task"}}, LOSS_AXIS))


def training_loss(frame: pd.DataFrame, position: int) -> Figure:
    """The trainer's own loss over the steps of one stage, in the colour of its place in the run."""
    rows = frame.dropna(subset=["loss"]).sort_values("step")
    curve = drawing.line(rows["step"].tolist(), rows["loss"].tolist(), "", position, "") | {
        "mode": "lines" if len(rows) > 40 else "lines+markers",
        "marker": {"color": style.colour(position), "size": 5},
        "hovertemplate": "step %{x}: loss %{y:.6g}<extra></extra>",
        "showlegend": False,
    }
    xaxis, yaxis = {"title": {"text": "Step"}}, {"title": {"text": "Training loss (nats)"}}
    return Figure([curve], drawing.layout(230, xaxis, yaxis, top=10))


def _shown(change: Change, value: float) -> float:
    return 100 * (value - 1) if words.is_ratio(change.metric) else value


def _loss_line(rows: pd.DataFrame, x: Sequence[Any], label: str, position: int, group: object) -> Drawn:
    places = [place if isinstance(place, str) else f"step {words.number(place)}" for place in x]
    texts = [
        f"{place}: {words.exact(loss)} nats per token{drawing.interval_text(low, high)}"
        for place, loss, low, high in zip(places, rows["value"], rows["low"], rows["high"], strict=True)
    ]
    curve = drawing.line(x, rows["value"].tolist(), label, position, group)
    return curve | {"customdata": [(label, text) for text in texts]}


def _task_name(outcome: str, task: object, split: object) -> str:
    kind = ", pairs" if outcome == "pair_accuracy" else ""
    where = split.replace("_", " ") if isinstance(split, str) else ""
    return escaped(f"{task}{kind}") + (f"<br>{escaped(where)}" if where else "")


def _accuracy_text(cell: dict[Any, Any] | None, trained: str) -> str:
    if cell is None:
        return ""
    text = f"{100 * cell['value']:.0f} %"
    return f"<b>{text}</b>" if cell["task"] == trained else text


def _accuracy_hover(task: str, stage: Stage, cell: dict[Any, Any] | None) -> str:
    head = f"<b>{escaped(stage.label)}</b><br>{task.replace('<br>', ', ')}: "
    if cell is None:
        return head + "not measured"
    count = "" if math.isnan(cell["n"]) else f"<br>{cell['n']:.0f} questions"
    span = drawing.interval_text(100 * cell["low"], 100 * cell["high"], " %")
    return f"{head}{words.number(100 * cell['value'])} %{span}{count}"
