"""Which rows a mixture takes, in which order: an exact share of replay, and no more tokens than without it."""

from __future__ import annotations

import logging
import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

_log = logging.getLogger(__name__)
By = Literal["tokens", "rows"]


@dataclass(frozen=True)
class Mix:
    """The rows of a mixture, and what it comes to.

    Attributes:
        order: its rows; the pool's are counted on from the last new one.
        new: tokens of each new row.
        pool: tokens of each pool row.
        budget: the tokens asked for.
        plain: how many rows the same tokens take without replay.

    """

    order: tuple[int, ...]
    new: tuple[int, ...]
    pool: tuple[int, ...]
    budget: int
    plain: int

    @cached_property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(self.length(row) for row in self.order)

    @cached_property
    def replayed(self) -> Counter[int]:
        """How often each pool row is read, those never read left out."""
        return Counter(row - len(self.new) for row in self.order if row >= len(self.new))

    @property
    def share(self) -> float:
        """The replayed share of its tokens, in [0, 1)."""
        return sum(self.pool[row] * times for row, times in self.replayed.items()) / max(1, self.tokens)

    def length(self, row: int) -> int:
        """Tokens of a row by its number in `order`."""
        return self.new[row] if row < len(self.new) else self.pool[row - len(self.new)]

    def figures(self) -> dict[str, float]:
        """What it comes to, in numbers."""
        return {
            "share": self.share,
            "tokens": self.tokens,
            "tokens_without": self.budget,
            "rows": len(self.order),
            "rows_without": self.plain,
            "replayed_rows": sum(self.replayed.values()),
            "pool_rows": len(self.pool),
            "pool_rows_read": len(self.replayed),
            "most_reads_of_one": max(self.replayed.values(), default=0),
        }

    def __str__(self) -> str:
        told = self.figures()
        return (
            f"replay: {100 * self.share:.2f} % of {self.tokens:,} tokens ({self.budget:,} without), "
            f"{told['replayed_rows']:,} of {len(self.order):,} rows ({self.plain:,} without, so "
            f"{100 * (len(self.order) / self.plain - 1):+.1f} % rows, and steps at one batch size); "
            f"{len(self.replayed):,} of {len(self.pool):,} pool rows, each at most {told['most_reads_of_one']} times"
        )

    def tell(self) -> None:
        """Log it; as a warning if it moved the rows, and with them the steps, or the tokens by 1 %."""
        moved = max(abs(len(self.order) / self.plain - 1), abs(self.tokens / self.budget - 1))
        _log.log(logging.WARNING if moved > 0.01 else logging.INFO, "%s", self)


def mixed(
    new: Sequence[int],
    pools: Sequence[Sequence[int]],
    ratio: float,
    *,
    seed: int,
    by: By = "tokens",
    budget: int | None = None,
    rows: int | None = None,
    match_lengths: bool = True,
) -> Mix:
    """Walk shuffled new rows and pool rows, and take one of the pool whenever replay is short of its share.

    A pool row is due when (replay so far) < ratio x (all so far). So at every prefix of the order the replayed share is
    within one row of `ratio`: (replay - ratio x all) lies between -ratio l and (1 - ratio) l, l the longest row. A pool
    row takes the place of the new row that was next, which goes to the end of the queue.

    With matched lengths the pool row comes from the decile of the new rows' lengths that the displaced row lies in,
    corrected by what earlier pool rows were longer or shorter than those whose place they took; where the pool has no
    row there, from the nearest decile that it has rows in. Each decile's rows are read in a shuffled order, all once
    before one twice. Of several pools the one that has given the fewest tokens is next.

    Source: share of tokens and the walk, our choice; the share itself in limberlm's notes on arXiv 2605.30524.

    Args:
        new: tokens of each new row, all above 0.
        pools: tokens of each pool row, all above 0, a list for each pool; they are numbered through.
        ratio: the replayed share, in (0, 1).
        seed: of the shuffles; nothing else is random.
        by: what the share is of.
        budget: tokens in all, met within half of the last row; by default those of `new`. New rows are read again,
            shuffled anew, if they have fewer.
        rows: rows in all, in place of a budget; their tokens are then as near to those of that many new rows as the
            pool's lengths allow.
        match_lengths: draw pool rows by length.

    >>> mix = mixed([400] * 1000, [[100] * 500], 0.1, seed=0)
    >>> len(mix.order), mix.tokens, round(mix.share, 3)
    (1300, 400000, 0.1)
    """
    rng = random.Random(f"replay/{seed}")
    budget = sum(new) if budget is None else budget
    queue = deque(_base(new, rng, budget, rows))
    plain, goal = len(queue), budget if rows is None else sum(new[row] for row in queue)
    draw = _Drawer(pools, new if match_lengths else (), rng)
    order: list[int] = []
    tokens = surplus = 0
    all_so_far = replay_so_far = 0
    while tokens < goal if rows is None else len(order) < rows:
        length = new[queue[0]]
        due = replay_so_far < ratio * all_so_far
        row, taken = draw(length - surplus) if due else (queue[0], length)
        if rows is None and 2 * (goal - tokens) < taken:
            break
        queue.rotate(-1) if due else queue.popleft()
        cost = taken if by == "tokens" else 1
        all_so_far += cost
        replay_so_far += cost if due else 0
        surplus += taken - length if due else 0
        tokens += taken
        order.append(len(new) + row if due else row)
    return Mix(tuple(order), tuple(new), tuple(n for pool in pools for n in pool), goal, plain)


def row_probability(ratio: float, new: float, pool: float) -> float:
    """The probability with which a stream must draw pool rows, for a share `ratio` of its tokens on average.

        p = (ratio / pool) / (ratio / pool + (1 - ratio) / new)

    Args:
        ratio: the share of tokens, in [0, 1).
        new: mean tokens of a new row.
        pool: mean tokens of a pool row.

    >>> round(row_probability(0.1, 400, 100), 3)
    0.308
    """
    wanted = ratio / pool
    return wanted / (wanted + (1 - ratio) / new)


def _base(new: Sequence[int], rng: random.Random, budget: int, rows: int | None) -> list[int]:
    """The new rows of a run without replay: whole passes, each shuffled anew, the last one in part."""
    taken: list[int] = []
    tokens = 0
    while True:
        for row in rng.sample(range(len(new)), len(new)):
            if tokens >= budget if rows is None else len(taken) >= rows:
                return taken
            taken.append(row)
            tokens += new[row]


class _Drawer:
    """Pool rows by a wanted length: (row, its tokens)."""

    def __init__(self, pools: Sequence[Sequence[int]], new: Sequence[int], rng: random.Random) -> None:
        self.edges = _edges(new)
        self.range = (min(new), max(new)) if new else (0, 0)
        self.given = [0] * len(pools)
        self.buckets: list[dict[int, _Shuffled]] = []
        starts = [0]
        for pool in pools:
            found: dict[int, list[tuple[int, int]]] = {}
            for row, length in enumerate(pool, starts[-1]):
                found.setdefault(bisect_right(self.edges, length), []).append((row, length))
            starts.append(starts[-1] + len(pool))
            self.buckets.append({bucket: _Shuffled(rows, rng) for bucket, rows in sorted(found.items())})

    def __call__(self, wanted: int) -> tuple[int, int]:
        pool = min(range(len(self.given)), key=self.given.__getitem__)
        bucket = bisect_right(self.edges, min(max(wanted, self.range[0]), self.range[1]))
        row, length = self.buckets[pool][min(self.buckets[pool], key=lambda each: abs(each - bucket))].next()
        self.given[pool] += length
        return row, length


class _Shuffled:
    """Rows in a shuffled order, again and again."""

    def __init__(self, rows: list[tuple[int, int]], rng: random.Random) -> None:
        self.rows, self.rng, self.left = rows, rng, list[tuple[int, int]]()

    def next(self) -> tuple[int, int]:
        if not self.left:
            self.left = self.rng.sample(self.rows, len(self.rows))
        return self.left.pop()


def _edges(lengths: Sequence[int]) -> list[int]:
    """Where the deciles of lengths begin, and one past the longest; none without lengths.

    >>> _edges([3, 3, 3, 9])
    [3, 9, 10]
    """
    ordered = sorted(lengths)
    starts = {ordered[len(ordered) * tenth // 10] for tenth in range(10)} if ordered else set()
    edges = sorted(starts | {ordered[-1] + 1}) if ordered else []
    assert all(low < high for low, high in pairwise(edges))
    return edges
