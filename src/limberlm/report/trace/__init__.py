"""One self-contained HTML file that shows what a trace found; it opens offline from a file.

Data flow one way: `data` (a trace folder) -> `lines` and `phases` -> `panels` with their `marks` -> the sections ->
`page`.
"""

from limberlm.report.trace.data import Trace, read_trace
from limberlm.report.trace.page import render_trace, trace_report

__all__ = ["Trace", "read_trace", "render_trace", "trace_report"]
