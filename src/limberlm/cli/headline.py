"""The headline table of a study on the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from limberlm.cli.console import print_table, say
from limberlm.report.study.data import ReportData
from limberlm.report.study.headline import COLUMNS, headline_rows
from limberlm.report.study.overview import Overview, overview

MOST_TABLES = 4  # more runs than this are shown together, in one table


def print_headline(data: ReportData) -> None:
    """One table per chain and seed: a column per stage, under each value its 95 % interval and a remark.

    Of more than `MOST_TABLES` runs the overview alone: the report has the others.
    """
    runs = data.runs
    if len(runs) > MOST_TABLES:
        _print_overview(overview(data))
        shown = len(data.shown_runs)
        more = "each of them" if shown == len(runs) else f"{shown} of them, with --every-run all"
        say(f"{len(runs)} runs; the report shows {more}, stage by stage")
        return
    for run in runs:
        stages = headline_rows(data, run)
        rows = []
        for (name, note), cells in zip(COLUMNS, zip(*(stage.cells for stage in stages), strict=True), strict=True):
            rows.append([name, *(cell.text for cell in cells)])
            rows.append([f"  {note}", *(cell.interval for cell in cells)])
            if any(cell.remark for cell in cells):
                rows.append(["", *(cell.remark for cell in cells)])
        print_table(run.label, ["", *(stage.stage for stage in stages)], rows)


def _print_overview(found: Overview) -> None:
    rows = [["", "", *(measure.note for measure in found.measures)]]
    for line in found.lines:
        rows.append([line.chain, f"{line.finished} of {len(line.seeds)}", *(cell.text for cell in line.cells)])
        rows.append(["", "", *(cell.interval for cell in line.cells)])
    print_table(
        "Ends of chains, means and 95 % intervals over seeds",
        ["", "seeds", *(measure.title for measure in found.measures)],
        rows,
    )


def overview_json(data: ReportData) -> list[dict[str, Any]]:
    """What stands at the end of every ordering under every arm, over seeds, exact."""
    found = overview(data)
    return [
        {
            "ordering": line.ordering,
            "arm": line.arm,
            "seeds": [seed for seed, _ in line.seeds],
            "finished": line.finished,
        }
        | {
            measure.name: {"value": cell.value, "low": cell.low, "high": cell.high, "n": count}
            for measure, cell, count in zip(found.measures, line.cells, line.counts, strict=True)
        }
        for line in found.lines
    ]


def headline_json(data: ReportData) -> list[dict[str, Any]]:
    """The same numbers, exact, per chain and seed."""
    return [
        {
            "chain": run.chain,
            "seed": run.seed,
            "stages": [
                {"stage": row.stage}
                | {
                    name: {"value": cell.value, "low": cell.low, "high": cell.high, "remark": cell.remark}
                    for (name, _), cell in zip(COLUMNS, row.cells, strict=True)
                }
                for row in headline_rows(data, run)
            ],
        }
        for run in data.runs
    ]
