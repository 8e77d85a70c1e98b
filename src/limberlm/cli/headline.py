"""The headline table of a study on the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from limberlm.cli.console import print_table
from limberlm.report.data import ReportData, list_runs
from limberlm.report.headline import COLUMNS, headline_rows


def print_headline(data: ReportData) -> None:
    """One table per chain and seed: a column per stage, under each value its 95 % interval and a remark."""
    for run in list_runs(data):
        stages = headline_rows(data, run)
        rows = []
        for (name, note), cells in zip(COLUMNS, zip(*(stage.cells for stage in stages), strict=True), strict=True):
            rows.append([name, *(cell.text for cell in cells)])
            rows.append([f"  {note}", *(cell.interval for cell in cells)])
            if any(cell.remark for cell in cells):
                rows.append(["", *(cell.remark for cell in cells)])
        print_table(run.label, ["", *(stage.stage for stage in stages)], rows)


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
        for run in list_runs(data)
    ]
