"""Exchanges of whole geometry trajectories, under which nothing is left but what geometry and outcome share by chance.

`design`, where every arm was run with every seed in every ordering: the names of arms, of seeds and of stages are shuffled
on the geometry's side, each everywhere alike. Checkpoints that shared a beginning, an arm, a seed or a stage share it
still, on both sides; only which belongs to which is lost. Under the null that the two sides have nothing to do with each
other, and that the levels of a factor are alike in law, the p-value is exact whatever arms, seeds, orderings and shared
beginnings do to either side: the law of a separately exchangeable array (Aldous 1981).

`trajectories`, of chains that share no checkpoint: each chain's whole trajectory goes to another of its family, freely.
Effects that several chains have in common, as of a seed, it does not know.

`rows`, within family and stage: breaks what the rows of a chain share. It rejects too often; the last resort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product
from typing import Literal

import numpy as np
import pandas as pd

from limberlm.analysis.prediction.models import Floats
from limberlm.analysis.prediction.splits import Ints

Kind = Literal["design", "trajectories", "rows"]
FEWEST = 40  # arrangements: below it no p reaches 0.025
MOST_NAMES = 7
CHUNK = 250


@dataclass(frozen=True)
class Exchange:
    """How trajectories are exchanged.

    Attributes:
        kind: see the module.
        rows: [n] of the table that take part: of an unfinished design its complete part.
        orders: [B, n] for each of these rows the place among them whose geometry it is given.
        arrangements: how many there are in all, the observed one too.
        reasons: why not another kind.

    """

    kind: Kind
    rows: Ints
    orders: Ints
    arrangements: float
    reasons: tuple[str, ...] = ()

    @property
    def smallest(self) -> float:
        """The smallest p that these arrangements can give."""
        return 1 / (1 + len(self.orders))

    @property
    def honest(self) -> bool:
        """Whether the level is kept where chains have effects of their own."""
        return self.kind != "rows"


def exchange(table: pd.DataFrame, count: int = 999, seed: int = 0, kind: Kind | None = None) -> Exchange:
    """The exchange that a table allows: the first of `design`, `trajectories` and `rows` with enough arrangements.

    Args:
        table: as from `complete`.
        count: how many permutations; of a design all of them, once each, where there are not more.
        seed: of what is drawn.
        kind: this one and no other.

    Raises:
        ValueError: `trajectories` was asked for and chains share checkpoints.

    """
    makers = {"design": _design, "trajectories": _trajectories, "rows": _rows}
    if kind is not None:
        return makers[kind](table, count, np.random.default_rng(seed))
    reasons: list[str] = []
    for maker in makers.values():
        try:
            found = maker(table, count, np.random.default_rng(seed))
        except ValueError as error:
            reasons.append(str(error))
            continue
        if found.arrangements >= FEWEST or maker is _rows:
            break
        reasons.append(f"the exchange of {_WHAT[found.kind]} has {found.arrangements:.0f} arrangements only")
    return Exchange(found.kind, found.rows, found.orders, found.arrangements, tuple(reasons))


_WHAT = {"design": "arms, seeds and stages", "trajectories": "trajectories", "rows": "rows"}


def exchanged(columns: Floats, orders: Ints) -> Iterator[Floats]:
    """Columns [n, k] in every order, chunk by chunk: [n, b, k]."""
    for start in range(0, len(orders), CHUNK):
        yield columns[orders[start : start + CHUNK].T]


def p_value(observed: float, drawn: Floats) -> float:
    """(1 + #(drawn >= observed)) / (1 + B), rounding apart.

    >>> p_value(1.0, np.array([0.0, 1.0, 2.0]))
    0.75
    """
    return float((1 + (drawn >= observed - 1e-12 * (1 + abs(observed))).sum()) / (1 + len(drawn)))


def relabellings(orderings: list[tuple[str, ...]]) -> list[dict[str, str]]:
    """Renamings of stages that turn a set of orderings into itself, the identity first.

    >>> [r["a"] for r in relabellings([("s", "a", "b"), ("s", "b", "a")])]
    ['a', 'b']
    """
    whole = set(orderings)
    names = sorted({name for ordering in orderings for name in ordering})
    free = [name for name in names if len({tuple(i for i, n in enumerate(o) if n == name) for o in whole}) > 1]
    fixed = {name: name for name in names}
    if not free or len(free) > MOST_NAMES:
        return [fixed]
    renamed = (fixed | dict(zip(free, names, strict=True)) for names in permutations(free))
    return [names for names in renamed if {tuple(names[name] for name in o) for o in whole} == whole]


Places = dict[tuple[str, tuple[str, ...], int, str], int]


@dataclass(frozen=True)
class _Crossed:
    """The complete part of a crossed design.

    Attributes:
        rows: [arms, seeds, places] of the table; a place is a family, an ordering so far, a stage and a task.
        count: how many renamings of stages there are.
        every: what each of them turns the places into, [places], the identity first.
        draw: the same of one at random.

    """

    rows: Ints
    count: int
    every: Callable[[], Iterator[Ints]]
    draw: Callable[[np.random.Generator], Ints]


def _design(table: pd.DataFrame, count: int, rng: np.random.Generator) -> Exchange:
    crossed = _crossed(table)
    arms, seeds, _ = crossed.rows.shape
    total = math.factorial(arms) * math.factorial(seeds) * crossed.count
    draws: Iterable[tuple[Ints, Ints, Ints]]
    if total - 1 <= count:
        draws = islice(product(_orders(arms), _orders(seeds), crossed.every()), 1, None)
    else:
        draws = ((rng.permutation(arms), rng.permutation(seeds), crossed.draw(rng)) for _ in range(count))
    rows = np.sort(crossed.rows.ravel())
    own = np.searchsorted(rows, crossed.rows)
    orders = np.array([_order(own, own[np.ix_(*draw)]) for draw in draws], dtype=np.intp).reshape(-1, len(rows))
    return Exchange("design", rows, orders, float(total))


def _order(to: Ints, since: Ints) -> Ints:
    order = np.empty(to.size, dtype=np.intp)
    order[to] = since
    return order


def _orders(n: int) -> Iterator[Ints]:
    return (np.array(order) for order in permutations(range(n)))


def _crossed(table: pd.DataFrame) -> _Crossed:
    keys = list(zip(table["family"], table["prefix"], table["stage_index"], table["task"], strict=True))
    places: Places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    (arm, arms), (seed, seeds) = (pd.factorize(table[name]) for name in ("arm", "seed"))
    rows = np.full((len(arms), len(seeds), len(places)), -1, dtype=np.intp)
    rows[arm, seed, [places[key] for key in keys]] = np.arange(len(table))
    if (rows >= 0).sum() < len(table):
        raise ValueError("several rows have one arm, seed, ordering and stage: the design is not known")
    while rows.size and (rows < 0).any():
        rows = _without_the_emptiest(rows)
    if 2 * rows.size < len(table):
        raise ValueError("not every arm was run with every seed in every ordering")
    return _renamings(rows, places)


def _without_the_emptiest(rows: Ints) -> Ints:
    """Without the arm or the seed of which most is missing."""
    missing = rows < 0
    arms, seeds = missing.mean((1, 2)), missing.mean((0, 2))
    axis = 0 if arms.max() > seeds.max() else 1
    return np.delete(rows, int((arms, seeds)[axis].argmax()), axis)


def _renamings(rows: Ints, places: Places) -> _Crossed:
    prefixes = sorted({prefix for _, prefix, _, _ in places})
    if all(len(prefix) == 1 for prefix in prefixes):  # whole orderings by name, as good as one another
        names = [name for (name,) in prefixes]

        def of(order: Sequence[int]) -> Ints:
            return _renamed(places, {name: names[other] for name, other in zip(names, order, strict=True)})

        of(np.roll(range(len(names)), 1).tolist())  # some name must do for every other
        every = (of(order) for order in permutations(range(len(names))))
        return _Crossed(
            rows,
            math.factorial(len(names)),
            lambda: every,
            lambda rng: of(rng.permutation(len(names)).tolist()),
        )
    ends = [one for one in prefixes if not any(other != one and other[: len(one)] == one for other in prefixes)]
    found = [_renamed(places, names) for names in relabellings(ends)]
    return _Crossed(rows, len(found), lambda: iter(found), lambda rng: found[rng.integers(len(found))])


def _renamed(places: Places, names: dict[str, str]) -> Ints:
    """The place that each place turns into.

    Raises:
        ValueError: there is no such place.

    """
    try:
        return np.array([places[f, tuple(names[name] for name in o), i, t] for f, o, i, t in places], dtype=np.intp)
    except KeyError:
        raise ValueError("the orderings of families differ, or chains are of unequal length") from None


def _trajectories(table: pd.DataFrame, count: int, rng: np.random.Generator) -> Exchange:
    if any(len(keys) > 1 for keys in table["touches"]):
        raise ValueError("chains share checkpoints: their trajectories cannot be exchanged one by one")
    chain = pd.factorize(table["chains"].astype(str))[0]
    kinds: dict[tuple[object, ...], list[Ints]] = {}
    for number in range(int(chain.max()) + 1):
        own = np.flatnonzero(chain == number)
        stops = zip(table["stage_index"].to_numpy()[own], table["task"].to_numpy()[own], own, strict=True)
        *_, order = zip(*sorted(stops), strict=True)
        shape = tuple((table["stage_index"].iloc[row], table["task"].iloc[row]) for row in order)
        kinds.setdefault((table["family"].iloc[own[0]], shape), []).append(np.array(order))
    blocks = [np.array(alike) for alike in kinds.values()]
    return _by_blocks("trajectories", len(table), blocks, count, rng)


def _rows(table: pd.DataFrame, count: int, rng: np.random.Generator) -> Exchange:
    nodes = table.groupby(["family", "stage_index", "node"], sort=False)
    whole: dict[tuple[object, ...], list[Ints]] = {}
    for (family, stage, _), rows in nodes.indices.items():
        tasks = tuple(table["task"].iloc[rows])
        whole.setdefault((family, stage, tasks), []).append(np.asarray(rows, dtype=np.intp))
    return _by_blocks("rows", len(table), [np.array(alike) for alike in whole.values()], count, rng)


def _by_blocks(kind: Kind, n: int, blocks: list[Ints], count: int, rng: np.random.Generator) -> Exchange:
    """Within each block [units, rows of one], whole units go to each other's places."""
    total = math.exp(min(sum(math.lgamma(len(block) + 1) for block in blocks), 700))
    orders = np.tile(np.arange(n), (count, 1))
    for order in orders:
        for block in blocks:
            order[block] = block[rng.permutation(len(block))]
    return Exchange(kind, np.arange(n), orders, round(total) if total < 1e9 else total)
