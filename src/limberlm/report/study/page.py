"""The report as one HTML file: nothing in it is fetched, so it opens offline and years later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from limberlm.analysis.arms import lacking
from limberlm.files import write_text
from limberlm.geometry.catalog import CATALOG
from limberlm.observe.names import BAND, BAND_HIGH, BAND_LOW, FINAL_NORM
from limberlm.report import style, words
from limberlm.report.drawing import escaped
from limberlm.report.packing import Numbers
from limberlm.report.page import Json, render
from limberlm.report.study import (
    calibration,
    headline,
    method,
    overview,
    plasticity,
    refusals,
    scores,
    summary,
    updates,
    verdict,
    whole,
    yardsticks,
)
from limberlm.report.study.data import ORDINARY, ReportData, Run
from limberlm.report.study.numbers import comparison_numbers, geometry_numbers
from limberlm.report.study.section import Figures, Sections

SCRIPTS = ("table.js", "report_numbers.js", "report_geometry.js", "report_reliability.js", "report.js")
HEADS = (
    *("Stage", "Against", "Metric", "Convention", "Site"),
    *("Before", "After", "Change", "95 % interval", "p", "p adjusted"),
)
AGAINST = {"random_adapter": "random directions"}
CAPTIONS = {
    "headline": headline.CAPTION,
    "overview": overview.CAPTION,
    "scores": scores.CAPTION,
    "plasticity": plasticity.CAPTION,
    "calibration": calibration.CAPTION,
    "refusals": refusals.CAPTION,
    "updates": updates.CAPTION,
    "yardsticks": yardsticks.CAPTION,
}


def render_report(data: ReportData) -> str:
    """The whole report as HTML text. The same data give the same text."""
    runs = data.shown_runs
    drawn, pool = Figures(), Numbers()
    sections = Sections(data, data.runs, drawn)
    shown = [sections.of(run, f"r{i}") for i, run in enumerate(runs)]
    told = whole.told(data)
    for section in told:
        drawn.figures.update({f"{section.key}|{i}": each.figure for i, each in enumerate(section.pictures)})
    metrics = _metrics(data.geometry)
    numbers = {
        "geometry": geometry_numbers(data, runs, pool),
        "comparisons": comparison_numbers(data, runs, pool),
        "reliability": calibration.reliability_numbers(calibration.reliability(data, runs), pool),
    }
    choices = _choices(data)
    return render(
        "report.html.j2",
        {
            "figures": drawn.figures,
            "aliases": drawn.aliases,
            "metrics": {entry["name"]: entry for entry in metrics},
            "heads": list(HEADS),
            "runs": [[[stage.label, stage.index, stage.node] for stage in run.stages] for run in runs],
            **numbers,
            "labels": [run.label for run in runs],
            "words": _words(data),
            "looks": _looks(runs),
            "choices": {name: options[first][0] for name, (options, first) in choices.items() if options},
        },
        SCRIPTS,
        pool,
        data=data,
        runs=shown,
        summary=summary.summary(data.ends, data.arms, data.why_no_ends, lacking(data.ends, len(data.lengths))),
        told=told,
        has_yardsticks=any(any(run["yardsticks"][name] for name in ("sentences", "zero", "ends")) for run in shown),
        has_updates=any(run["updates"] for run in shown),
        ordinary=ORDINARY,
        overview=overview.overview(data) if len(data.runs) > 1 else None,
        left_out=len(data.runs) - len(runs),
        balance=overview.balance_tables(data),
        columns=headline.COLUMNS,
        captions=CAPTIONS,
        rate_note=_rate_note(data),
        metrics=metrics,
        conventions=[(name, words.CONVENTIONS.get(name, name)) for name in _present(data.geometry, "convention")],
        choices=choices,
        calibration_columns=[column[1:] for column in calibration.COLUMNS],
        meaning=verdict.MEANING,
        evidence=words.EVIDENCE,
        method_notes=method.NOTES,
    )


def write_report(data: ReportData, path: Path) -> Path:
    """Write the report to `path`, whole or not at all.

    Raises:
        UserError: it cannot be written there.

    """
    write_text(path, render_report(data))
    return path


def _rate_note(data: ReportData) -> str:
    if len(data.rates) < 2:
        return ""
    return f" Plasticity is at a learning rate of {data.fixed_rate:g}, the middle one of {len(data.rates)}."


def _choices(data: ReportData) -> dict[str, tuple[list[tuple[str, str]], int]]:
    """What a reader chooses for all runs at once, by name: the options with their titles, and which comes first."""
    rates = [(plasticity.rate_name(rate), plasticity.rate_name(rate)) for rate in data.rates]
    found = [(source, calibration.SOURCE_TITLES[source]) for source in calibration.sources(data.measured)]
    return {
        "rate": (rates or [(plasticity.rate_name(None), "")], max(len(rates) - 1, 0) // 2),
        "source": (found, 0),
    }


def _looks(runs: Sequence[Run]) -> Json:
    """What the page's own figures look like: by position of a stage in its run, and in general."""
    longest = max((len(run.stages) for run in runs), default=0)
    positions = [
        {
            "colour": style.colour(position),
            "dash": style.dash(position),
            "symbol": style.symbol(position),
            "fill": style.translucent(style.colour(position), 0.14),
        }
        for position in range(longest)
    ]
    shade = style.translucent(style.BASE_COLOUR, 0.09)
    return {"positions": positions, "null": style.NULL_COLOUR, "base": style.BASE_COLOUR, "shade": shade}


def _words(data: ReportData) -> Json:
    sites = {*_present(data.geometry, "site"), *_present(data.comparisons, "site")}
    return {
        "sites": {site: words.site_title(site) for site in sorted(sites)},
        "titles": {name: words.metric_title(name) for name in _present(data.comparisons, "metric")},
        "against": AGAINST,
        "band": BAND,
        "final_norm": FINAL_NORM,
        "band_range": [BAND_LOW, BAND_HIGH],
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
    conventions = geometry[["metric", "convention"]].drop_duplicates().groupby("metric")["convention"].apply(sorted)
    entries = []
    for name in names:
        known = words.record(name)
        fields = {k: v.replace("`", "") for k, v in asdict(known).items() if isinstance(v, str)} if known else {}
        unit = words.metric_unit(name)
        title = words.metric_title(name)
        entries.append(
            {
                **dict.fromkeys(("formula", "source", "bounds", "note"), ""),
                **fields,
                "name": name,
                "title": title,
                "axis": escaped(title) + (f"<br>({escaped(unit)})" if unit else ""),
                "ratio": words.is_ratio(name),
                "reading": words.DIRECTIONS[known.direction] if known else "",
                "conventions": conventions[name],
            }
        )
    return entries


def _present(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in frame[column].drop_duplicates()]
