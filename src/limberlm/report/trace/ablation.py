"""Scores with leading eigen-directions removed or kept, beside random ones."""

from __future__ import annotations

from limberlm.report.trace.view import Part, View


def part(view: View) -> Part:
    """Scores with directions removed or kept."""
    return Part()
