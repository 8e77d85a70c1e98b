"""The sections that are of a whole study and not of one run."""

from __future__ import annotations

from limberlm.report.study.data import ReportData
from limberlm.report.study.three_ways import three_ways
from limberlm.report.study.told import Told


def told(data: ReportData) -> list[Told]:
    """Those that the study can fill, in the page's order."""
    return [three_ways(data.arms)] if len(data.arms) else []
