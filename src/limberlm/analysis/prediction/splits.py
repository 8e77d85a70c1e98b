"""Who is held out: chains, orderings or families, and every row that they touch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from limberlm.analysis.prediction.cells import ChainKey

Scheme = Literal["chain", "ordering", "family", "arm"]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Split:
    """One group held out.

    Attributes:
        group: its name.
        train: [rows] that no held-out chain goes through.
        test: [rows] that lie on a held-out chain.

    """

    group: str
    train: Ints
    test: Ints


def schemes(table: pd.DataFrame) -> list[Scheme]:
    """What can be held out: chains, orderings, and families, or arms where there is one family."""
    several: list[Scheme] = [name for name in ("chain", "ordering", "family") if len(groups(table, name)) > 1]
    return several if "family" in several or len(groups(table, "arm")) < 2 else [*several, "arm"]


def groups(table: pd.DataFrame, scheme: Scheme) -> list[str]:
    """The groups that are held out one by one, in the order of the table."""
    return list(dict.fromkeys(_group(key, scheme) for keys in table["chains"] for key in keys))


def splits(table: pd.DataFrame, scheme: Scheme) -> list[Split]:
    """Every group held out once; one that leaves nothing to learn from is left out.

    A checkpoint that a held-out chain goes through leaves the training set, also where other chains share it: its copy
    would give the answer away.
    """
    on, touched = (_members(table[column], scheme) for column in ("chains", "touches"))
    found = []
    for group in groups(table, scheme):
        test, out = (np.array([group in row for row in rows]) for rows in (on, touched))
        if not out.all():
            found.append(Split(group, np.flatnonzero(~out), np.flatnonzero(test)))
    return found


def connected(column: Sequence[tuple[ChainKey, ...]]) -> dict[ChainKey, int]:
    """The number of the set that each chain belongs to: chains that share a checkpoint are one set.

    These, not chains, are drawn together where what is drawn must be independent.

    Args:
        column: for every checkpoint the chains that it lies on.

    """
    parent: dict[ChainKey, ChainKey] = {}

    def root(key: ChainKey) -> ChainKey:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for keys in column:
        for key in keys:
            parent[root(key)] = root(keys[0])
    numbers = {first: number for number, first in enumerate(dict.fromkeys(map(root, list(parent))))}
    return {key: numbers[root(key)] for key in parent}


def _members(column: Sequence[tuple[ChainKey, ...]], scheme: Scheme) -> list[set[str]]:
    return [{_group(key, scheme) for key in keys} for keys in column]


def _group(key: ChainKey, scheme: Scheme) -> str:
    return " / ".join(map(str, key)) if scheme == "chain" else str(getattr(key, scheme))
