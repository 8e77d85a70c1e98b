"""Which runs a page shows one at a time: all of them, or as many as keep it small."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from limberlm.report.study.data import Key
from limberlm.study import Results
from limberlm.study.plan.plan import Chain
from limberlm.study.store.names import GEOMETRY

CELLS = 60_000
"""How many rows of geometry a page has for its runs, about 40 bytes each with what they are compared with: our choice,
for a page below 6 MB."""


def shown_runs(results: Results, runs: Sequence[Chain], most: int = CELLS) -> frozenset[Key]:
    """The first seeds of all chains, as far as the rows of their checkpoints go; at least one run.

    A checkpoint that runs share counts once.
    """
    cells, nodes, kept = 0, set[str](), set[Key]()
    for run in _first_seeds_first(runs):
        own = {node for node in run.nodes if results.has(node, GEOMETRY)}
        cells += sum(len(results.load_geometry(node).table) for node in own - nodes)
        if cells > most and kept:
            break
        nodes |= own
        kept.add((run.name, run.seed))
    return frozenset(kept)


def _first_seeds_first(runs: Sequence[Chain]) -> list[Chain]:
    before: Counter[str] = Counter()
    ranks = []
    for run in runs:
        ranks.append(before[run.name])
        before[run.name] += 1
    return [run for _, run in sorted(zip(ranks, runs, strict=True), key=lambda pair: pair[0])]
