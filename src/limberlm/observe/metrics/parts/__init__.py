"""What each metric takes, from the statistics of a pass, with any one jackknife block left out."""

from __future__ import annotations

from limberlm.observe.metrics.parts.parts import Parts
from limberlm.observe.metrics.parts.sums import NOTHING

__all__ = ["NOTHING", "Parts"]
