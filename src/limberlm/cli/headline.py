"""The headline table of a study on the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from limberlm.cli.console import print_table
from limberlm.report.data import ReportData, list_runs
from limberlm.report.headline import COLUMNS, headline_rows


def print_headline(data: ReportData) -> None:
    """One table per chain and seed: a row per stage, each value with its interval."""
    heads = ["stage", *(name for name, _ in COLUMNS)]
    for run in list_runs(data):
        rows = []
        for row in headline_rows(data, run):
            rows.append([row.stage, *(cell.text for cell in row.cells)])
            rows.append(["", *(cell.interval for cell in row.cells)])
        print_table(run.label, heads, rows)


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
