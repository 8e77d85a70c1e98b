"""Many chains, planned as a tree, run node by node, safe to interrupt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limberlm.lazy import lazily

if TYPE_CHECKING:
    from limberlm.study.results.checkpoints import ChainCheckpoint, chain_checkpoints, write_series
    from limberlm.study.results.results import Results
    from limberlm.study.study import Study

__all__ = ["ChainCheckpoint", "Results", "Study", "chain_checkpoints", "write_series"]

__getattr__ = lazily(
    __name__,
    {
        "ChainCheckpoint": "results.checkpoints",
        "Results": "results.results",
        "Study": "study",
        "chain_checkpoints": "results.checkpoints",
        "write_series": "results.checkpoints",
    },
)
