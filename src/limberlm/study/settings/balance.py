"""How balanced a list of orderings is, and how much of it can be trained once.

Balance is of two kinds. Positions: every stage stands equally often in every place. Carry-over: every stage follows
every other equally often, so that what one stage leaves to the next is not tied to which stages they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any

Ordering = tuple[str, ...]


@dataclass(frozen=True)
class Balance:
    """How often every stage stands where, and after what.

    Attributes:
        position: by stage, the number of orderings in which it stands first, second, and so on.
        carry_over: by stage, how often each stage comes right after it: `carry_over[before][after]`.
        positions_balanced: whether the stages that move stand equally often in every place that they move in.
        carry_over_balanced: whether each of them follows each other one equally often.

    """

    position: Mapping[str, tuple[int, ...]]
    carry_over: Mapping[str, Mapping[str, int]]
    positions_balanced: bool
    carry_over_balanced: bool

    @property
    def is_balanced(self) -> bool:
        """Both. What all orderings begin or end with does not count; where nothing moves, nothing is balanced."""
        return self.positions_balanced and self.carry_over_balanced

    def as_dict(self) -> dict[str, Any]:
        """Both tables and the verdicts as plain values, for `plan.json`."""
        return {
            "position": {stage: list(counts) for stage, counts in self.position.items()},
            "carry_over": {before: dict(counts) for before, counts in self.carry_over.items()},
            "positions_balanced": self.positions_balanced,
            "carry_over_balanced": self.carry_over_balanced,
        }


def balance(orderings: Sequence[Sequence[str]]) -> Balance:
    """The position and carry-over tables of any orderings, which may differ in length.

    >>> table = balance(["abc", "bca", "cab"])
    >>> table.position["a"], table.carry_over["a"], table.is_balanced
    ((1, 1, 1), {'a': 0, 'b': 2, 'c': 0}, False)
    """
    chains = [tuple(ordering) for ordering in orderings]
    middles = _moving(chains)
    (places, pairs), (moving_places, moving_pairs) = _counted(chains), _counted(middles)
    stages, moving = _stages(chains), _stages(middles)
    longest, width = (max(map(len, each), default=0) for each in (chains, middles))
    return Balance(
        position={stage: tuple(places[stage, place] for place in range(longest)) for stage in stages},
        carry_over={before: {after: pairs[before, after] for after in stages} for before in stages},
        positions_balanced=len(set(map(len, middles))) == 1
        and _even(moving_places[stage, place] for stage in moving for place in range(width)),
        carry_over_balanced=_even(moving_pairs[pair] for pair in permutations(moving, 2)),
    )


def prefix_counts(orderings: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many stage runs the orderings need one by one (`stage_runs`), and with shared beginnings once (`nodes`).

    The base is not counted. Per seed, and per intervention that also acts on the first stage.

    >>> prefix_counts(["abc", "acb"])
    {'stage_runs': 6, 'nodes': 5}
    """
    chains = [tuple(ordering) for ordering in orderings]
    beginnings = {chain[:length] for chain in chains for length in range(1, len(chain) + 1)}
    return {"stage_runs": sum(map(len, chains)), "nodes": len(beginnings)}


def _stages(chains: Sequence[Ordering]) -> Ordering:
    return tuple(dict.fromkeys(stage for chain in chains for stage in chain))


def _counted(chains: Sequence[Ordering]) -> tuple[Counter[tuple[str, int]], Counter[tuple[str, str]]]:
    places = Counter((stage, place) for chain in chains for place, stage in enumerate(chain))
    return places, Counter(pair for chain in chains for pair in pairwise(chain))


def _moving(chains: Sequence[Ordering]) -> list[Ordering]:
    """The chains without what all of them begin and end with."""
    first = _shared(chains)
    rest = [chain[first:] for chain in chains]
    last = _shared([chain[::-1] for chain in rest])
    return [chain[: len(chain) - last] for chain in rest]


def _shared(chains: Sequence[Ordering]) -> int:
    """How many stages all chains begin with alike."""
    alike = (len(set(column)) == 1 for column in zip(*chains, strict=False))
    return next((length for length, same in enumerate(alike) if not same), min(map(len, chains), default=0))


def _even(counts: Iterable[int]) -> bool:
    """Whether all counts are the same; not so if there are none."""
    return len(set(counts)) == 1
