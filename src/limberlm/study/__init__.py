"""Many chains, planned as a tree, run node by node, safe to interrupt."""

from __future__ import annotations

from limberlm.study.results.checkpoints import ChainCheckpoint, chain_checkpoints, write_series
from limberlm.study.results.results import Results
from limberlm.study.study import Study

__all__ = ["ChainCheckpoint", "Results", "Study", "chain_checkpoints", "write_series"]
