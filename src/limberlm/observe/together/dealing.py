"""Who does what: jackknife blocks to read and sites to summarise, dealt out so that all are done at about one time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from limberlm.observe.forward.request import Request
from limberlm.observe.names import FINAL_NORM, LAST
from limberlm.observe.probe.probe_set import ProbeSet

T = TypeVar("T")


def dealt(loads: Mapping[T, float], hands: int) -> list[list[T]]:
    """The keys in `hands` parts of nearly equal load: the largest first, each to the part with the least so far.

    >>> dealt({"a": 1, "b": 4, "c": 2, "d": 2}, 2)
    [['b', 'a'], ['c', 'd']]
    """
    parts: list[list[T]] = [[] for _ in range(hands)]
    sums = [0.0] * hands
    for key in sorted(loads, key=lambda key: -loads[key]):
        least = sums.index(min(sums))
        parts[least].append(key)
        sums[least] += loads[key]
    return parts


def block_loads(probe: ProbeSet, blocks: int) -> dict[int, float]:
    """The kept tokens of each jackknife block that has sequences."""
    loads: Counter[int] = Counter()
    for sequence in probe.sequences:
        loads[sequence.block % blocks] += sequence.kept
    return {block: float(loads[block]) for block in sorted(loads)}


def site_loads(sites: Sequence[str], request: Request) -> dict[str, float]:
    """How many sets of spectra each site takes; the final norm has those of last tokens and of logits too."""
    each = float(len([name for name in request.conventions if name != LAST]))
    return {site: each + 2 if site == FINAL_NORM else each for site in sites}
