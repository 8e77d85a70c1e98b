"""Two studies side by side: what stands at the ends of their chains, and differences where they can be taken."""

from __future__ import annotations

from limberlm.report.compare.page import compare_studies, render_comparison

__all__ = ["compare_studies", "render_comparison"]
