"""Which runs a page shows one at a time: all of them, or as many as keep it small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from limberlm.report.study.data import ReportData, Run

CELLS = 60_000
"""How many rows of geometry a page has for its runs, about 40 bytes each with what they are compared with: our choice,
for a page below 6 MB."""


def shown_runs(data: ReportData, runs: Sequence[Run], most: int | None = CELLS) -> list[Run]:
    """The first seeds of all chains, as far as the rows of their checkpoints go; at least one run, None for all.

    A checkpoint that runs share counts once. The runs stay in their order.
    """
    if most is None:
        return list(runs)
    cells, nodes, kept = 0, set[str](), set[tuple[str, int]]()
    for run in _first_seeds_first(runs):
        own = data.rows("geometry", run.key)["node"].value_counts()
        cells += sum(int(rows) for node, rows in own.items() if node not in nodes)
        if cells > most and kept:
            break
        nodes |= set(own.index)
        kept.add(run.key)
    return [run for run in runs if run.key in kept]


def _first_seeds_first(runs: Sequence[Run]) -> list[Run]:
    before: Counter[str] = Counter()
    ranks = {}
    for run in runs:
        ranks[run.key] = before[run.chain]
        before[run.chain] += 1
    return sorted(runs, key=lambda run: ranks[run.key])
