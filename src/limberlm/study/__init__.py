"""Many chains, planned as a tree, run node by node, safe to interrupt."""

from __future__ import annotations

from limberlm.study.results import Results
from limberlm.study.study import Study

__all__ = ["Results", "Study"]
