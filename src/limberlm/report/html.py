"""The report as one HTML file: nothing in it is fetched, so it opens offline and years later."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from limberlm.geometry.catalog import CATALOG
from limberlm.report import figures, headline, method, verdict, words
from limberlm.report.comparison import comparison_table
from limberlm.report.data import ReportData, Run, list_runs
from limberlm.report.page import Json, plain_figure, render, write_whole


def render_report(data: ReportData) -> str:
    """The whole report as HTML text. The same data give the same text."""
    runs = list_runs(data)
    drawn: dict[str, Json] = {}
    sections = [_section(data, run, runs, f"r{i}", drawn) for i, run in enumerate(runs)]
    metrics = _metrics(data.geometry)
    return render(
        "report.html.j2",
        {
            "figures": drawn,
            "metrics": {entry["name"]: entry for entry in metrics},
            "comparisons": comparison_table(data, runs),
        },
        ("figures.js", "table.js", "report.js"),
        data=data,
        runs=sections,
        columns=headline.COLUMNS,
        headline_caption=headline.CAPTION,
        metrics=metrics,
        conventions=[(name, words.CONVENTIONS.get(name, name)) for name in _present(data.geometry, "convention")],
        meaning=verdict.MEANING,
        evidence=method.EVIDENCE,
        method_notes=method.NOTES,
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report to `path`: whole or not at all (a temporary file beside it, then a rename).

    Raises:
        OSError: the folder does not exist or cannot be written to.

    """
    return write_whole(render_report(data), path)


def _section(data: ReportData, run: Run, runs: list[Run], key: str, drawn: dict[str, Json]) -> Json:
    """What the page shows of one run; its figures go to `drawn` under keys that start with `key`."""
    geometry, outcomes, training = (run.rows(frame) for frame in (data.geometry, data.outcomes, data.training))
    for (metric, convention), frame in geometry.groupby(["metric", "convention"], sort=False):
        name = f"{metric}|{convention}"
        drawn[f"{key}|depth|{name}"] = plain_figure(figures.geometry_by_depth(frame, run.stages, str(metric)))
        drawn[f"{key}|stage|{name}"] = plain_figure(figures.geometry_by_stage(frame, run.stages, str(metric)))
    heatmap = figures.accuracy_heatmap(outcomes, run.stages)
    if heatmap is not None:
        drawn[f"{key}|accuracy"] = plain_figure(heatmap)
    loss = figures.loss_by_stage(outcomes, run.stages)
    if loss is not None:
        drawn[f"{key}|loss"] = plain_figure(loss)
    tasks = list(outcomes.loc[outcomes["outcome"] == "future_loss", "task"].drop_duplicates())
    for i, task in enumerate(tasks):
        drawn[f"{key}|plasticity|{i}"] = plain_figure(figures.plasticity_curve(outcomes, run.stages, task))
    losses = []
    for position, stage in enumerate(run.stages):
        own = training[training["stage_index"] == stage.index]
        if len(own):
            losses.append((f"{key}|training|{position}", stage.label))
            drawn[losses[-1][0]] = plain_figure(figures.training_loss(own, position))
    findings, rows = verdict.findings(run, data.comparisons), headline.headline_rows(data, run)
    return {
        "key": key,
        "label": run.label,
        "summary": verdict.summary(findings) if findings else "",
        "findings": findings,
        "outcomes": headline.outcomes_sentence(rows),
        "seeds": verdict.seeds_sentence(run, runs, data.comparisons),
        "rows": rows,
        "has_geometry": len(geometry) > 0,
        "has_accuracy": heatmap is not None,
        "has_loss": loss is not None,
        "plasticity": [(f"{key}|plasticity|{i}", str(task)) for i, task in enumerate(tasks)],
        "training": losses,
    }


def _metrics(geometry: pd.DataFrame) -> list[Json]:
    """What each metric present is, in catalog order, the corrected row before the plain one."""
    order = {name: i for i, name in enumerate(CATALOG)}
    names = sorted(
        _present(geometry, "metric"),
        key=lambda name: (
            order.get(name.removesuffix(words.CORRECTED), len(order)),
            not name.endswith(words.CORRECTED),
        ),
    )
    entries = []
    for name in names:
        known = words.record(name)
        fields = {k: v.replace("`", "") for k, v in asdict(known).items() if isinstance(v, str)} if known else {}
        used = sorted(set(geometry.loc[geometry["metric"] == name, "convention"]))
        entries.append(
            {
                **dict.fromkeys(("formula", "source", "bounds", "note"), ""),
                **fields,
                "name": name,
                "title": words.metric_title(name),
                "reading": words.DIRECTIONS[known.direction] if known else "",
                "conventions": used,
            }
        )
    return entries


def _present(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in frame[column].drop_duplicates()]
