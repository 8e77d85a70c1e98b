"""The report as one HTML file: nothing in it is fetched, so it opens offline and years later."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from limberlm.geometry.catalog import CATALOG
from limberlm.report import figures, headline, method, style, verdict, words
from limberlm.report.comparison import comparison_table
from limberlm.report.data import ReportData, Run, list_runs

Json = dict[str, Any]


def render_report(data: ReportData) -> str:
    """The whole report as HTML text. The same data give the same text."""
    runs = list_runs(data)
    drawn: dict[str, Json] = {}
    sections = [_section(data, run, runs, f"r{i}", drawn) for i, run in enumerate(runs)]
    metrics = _metrics(data.geometry)
    templates = resources.files("limberlm.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("limberlm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        data=data,
        runs=sections,
        columns=headline.COLUMNS,
        headline_caption=headline.CAPTION,
        metrics=metrics,
        conventions=[(name, words.CONVENTIONS.get(name, name)) for name in _present(data.geometry, "convention")],
        meaning=verdict.MEANING,
        evidence=method.EVIDENCE,
        method_notes=method.NOTES,
        style=Markup((templates / "report.css").read_text("utf-8")),
        script=Markup((templates / "report.js").read_text("utf-8")),
        plotly=Markup(get_plotlyjs()),
        page=_script_json(
            {
                "figures": drawn,
                "templates": {"light": style.template(dark=False), "dark": style.template(dark=True)},
                "metrics": {entry["name"]: entry for entry in metrics},
                "comparisons": comparison_table(data, runs),
            }
        ),
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report to `path`: whole or not at all (a temporary file beside it, then a rename).

    Raises:
        OSError: the folder does not exist or cannot be written to.

    """
    target = Path(path)
    text = render_report(data)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target


def _section(data: ReportData, run: Run, runs: list[Run], key: str, drawn: dict[str, Json]) -> Json:
    """What the page shows of one run; its figures go to `drawn` under keys that start with `key`."""
    geometry, outcomes, training = (run.rows(frame) for frame in (data.geometry, data.outcomes, data.training))
    for (metric, convention), frame in geometry.groupby(["metric", "convention"], sort=False):
        name = f"{metric}|{convention}"
        drawn[f"{key}|depth|{name}"] = _plain(figures.geometry_by_depth(frame, run.stages, str(metric)))
        drawn[f"{key}|stage|{name}"] = _plain(figures.geometry_by_stage(frame, run.stages, str(metric)))
    heatmap = figures.accuracy_heatmap(outcomes, run.stages)
    if heatmap is not None:
        drawn[f"{key}|accuracy"] = _plain(heatmap)
    loss = figures.loss_by_stage(outcomes, run.stages)
    if loss is not None:
        drawn[f"{key}|loss"] = _plain(loss)
    tasks = list(outcomes.loc[outcomes["outcome"] == "future_loss", "task"].drop_duplicates())
    for i, task in enumerate(tasks):
        drawn[f"{key}|plasticity|{i}"] = _plain(figures.plasticity_curve(outcomes, run.stages, task))
    losses = []
    for position, stage in enumerate(run.stages):
        own = training[training["stage_index"] == stage.index]
        if len(own):
            losses.append((f"{key}|training|{position}", stage.label))
            drawn[losses[-1][0]] = _plain(figures.training_loss(own, position))
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


def _plain(figure: Any) -> Json:
    """A figure as plain JSON, without Plotly's default template, which would be repeated in each."""
    plain: Json = figure.to_plotly_json()
    del plain["layout"]["template"]
    return plain


def _script_json(value: object) -> Markup:
    """JSON that may stand inside a script element: no `<`, so no tag can close it; NaN becomes null."""
    text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
