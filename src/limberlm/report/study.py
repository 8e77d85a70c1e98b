"""A study's results as what a report is made from."""

from __future__ import annotations

from limberlm.report.data import ReportData
from limberlm.study import Results


def report_data(results: Results, title: str) -> ReportData:
    """Everything a report shows of a run directory, as far as it is finished."""
    return ReportData(
        title=title,
        geometry=results.table("geometry"),
        outcomes=results.table("outcomes"),
        training=results.table("training"),
        comparisons=results.table("comparisons"),
        settings=results.settings,
        versions=results.versions(),
        targets=results.targets(),
    )
