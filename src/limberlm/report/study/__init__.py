"""One self-contained HTML file that shows what a study found; it opens offline from a file.

Data flow one way: `read` (a run directory) -> `data` -> the sections, one file each -> `section` (all that the page
shows of one run) -> `page`.
"""

from limberlm.report.study.data import ReportData
from limberlm.report.study.page import render_report, write_report
from limberlm.report.study.read import report_data

__all__ = ["ReportData", "render_report", "report_data", "write_report"]
