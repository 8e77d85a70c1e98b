"""One self-contained HTML file that shows what a trace found; it opens offline from a file."""

from limberlm.report.trace.data import Trace, read_trace
from limberlm.report.trace.page import render_trace, trace_report

__all__ = ["Trace", "read_trace", "render_trace", "trace_report"]
