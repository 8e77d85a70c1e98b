"""One self-contained HTML file that shows what a study found; it opens offline from a file."""

from limberlm.report.data import ReportData
from limberlm.report.html import render_report, write_report

__all__ = ["ReportData", "render_report", "write_report"]
