"""pass@k: the chance that at least one of k sampled answers is right, without the plug-in's bias.

The plug-in 1 - (1 - c/N)^k is too low wherever k is not small beside N (0.394 where 0.5 is right, at N = 512, c = 1,
k = 256), so it is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limberlm.errors import UserError
from limberlm.outcomes.table import Row, item_changes, outcome_row

Floats = NDArray[np.float64]
RESAMPLES = 10_000
_PART = 1000  # resamples drawn at a time


def pass_at_k(n: int, c: ArrayLike, k: ArrayLike) -> Floats:
    """Unbiased pass@k from n sampled answers of which c are right: 1 - C(n-c, k) / C(n, k), in [0, 1].

    Computed as 1 - prod_{i=n-c+1..n} (1 - k/i), which neither overflows nor cancels; 1 where n - c < k. `c` and `k` are
    whole numbers and broadcast against each other: counts [problems, 1] and ks [K] give [problems, K]. Its variance is
    large as k nears n: ask for k up to n/2.

    Source: Chen et al. 2107.03374.

    Raises:
        ValueError: c is not in 0..n, or k is not in 1..n.

    >>> pass_at_k(512, [1, 2, 5], 256).round(6).tolist()
    [0.5, 0.750489, 0.96936]
    >>> pass_at_k(4, [[0], [3]], [1, 2]).tolist()
    [[0.0, 0.0], [0.75, 1.0]]
    """
    counts, ks = np.broadcast_arrays(np.asarray(c, dtype=np.int64), np.asarray(k, dtype=np.int64))
    if counts.size and (counts.min() < 0 or counts.max() > n):
        raise ValueError(f"of {n} answers 0 to {n} can be right, not {counts.min()} to {counts.max()}")
    if ks.size and (ks.min() < 1 or ks.max() > n):
        raise ValueError(f"from {n} answers k can be 1 to {n}, not {ks.min()} to {ks.max()}")
    found = np.empty(counts.shape)
    falling = np.arange(n, 0, -1)
    for one in np.unique(ks):
        missed = np.concatenate([[1.0], np.cumprod(1 - one / falling)])  # by c
        found[ks == one] = 1 - missed[counts[ks == one]]
    return found


def bootstrap_interval(values: Floats, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[Floats, Floats]:
    """95 % percentile intervals of the column means of `values` [problems, K], by resampling problems.

    The problems are the unit, not the answers: answers to one problem are alike. Columns share their resamples, so a
    curve over k moves as a whole. Returns low [K] and high [K].
    """
    problems = len(values)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, _PART):
        drawn = rng.multinomial(problems, np.full(problems, 1 / problems), size=min(_PART, resamples - start))
        means.append(drawn @ values / problems)
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    return low, high


def check_ks(n: int, ks: Sequence[int]) -> None:
    """Refuse numbers of tries that n answers cannot speak about.

    Raises:
        UserError: none is given, or one is below 1 or above n/2.

    """
    if n < 2:
        raise UserError(f"samples={n}: pass@k needs at least 2 answers to each problem")
    if not ks:
        raise UserError("k: give at least one number of tries, such as 1")
    for k in ks:
        if not 1 <= k <= n // 2:
            raise UserError(f"k={k}: with {n} answers to each problem k can be 1 to {n // 2}; raise samples to {2 * k}")


def pass_at_k_rows(
    task: str,
    right: Sequence[int],
    n: int,
    ks: Sequence[int],
    *,
    split: str = "in_domain",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Row]:
    """Outcome rows `pass@k`, one for each k, from the number of right answers among n to each problem.

    `items` are the problems' own pass@k; the interval is a bootstrap over problems. Where every problem has 0, or every
    one has 1, resampling would give an interval without width, and Wilson's is given instead: no value in [0, 1] is
    less certain than a yes or no.

    Raises:
        UserError: a k above n/2.

    """
    check_ks(n, ks)
    values = pass_at_k(n, np.asarray(right)[:, None], np.asarray(ks))
    low, high = bootstrap_interval(values, seed=seed)
    rows = []
    for column, k in enumerate(ks):
        own = values[:, column]
        settled = bool((own == 0).all() or (own == 1).all())
        said = {**(settings or {}), "samples": n, "k": k}
        row = outcome_row(
            f"pass@{k}", task, own.tolist(), kind="share" if settled else "mean", split=split, settings=said
        )
        rows.append(row if settled else row | {"low": float(low[column]), "high": float(high[column])})
    return rows


def paired_pass_at_k(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> list[Row]:
    """Rows `pass@k_change`: pass@k of one checkpoint minus that of another on the same problems, k by k.

    Paired by problem, the interval by a bootstrap over problems, or that of Bonett and Price where no problem changed.
    The problems' difficulty, by far the largest part of the spread, drops out.

    Args:
        before: rows of `pass_at_k_rows` of the earlier checkpoint, or the same read back from a table.
        after: those of the later one.
        seed: of the bootstrap.

    Raises:
        UserError: the two differ in task, split, settings or problems, or share no k.

    """
    earlier = {(row["outcome"], row["task"], row["split"]): row for row in before}
    pairs = [(earlier[key], row) for row in after if (key := (row["outcome"], row["task"], row["split"])) in earlier]
    if not pairs:
        raise UserError("pass@k: the two checkpoints share no task, split and k; sample both in the same way")
    rows = []
    for one, other in pairs:
        change = item_changes(one, other)
        moved = bool(change.any())
        row = outcome_row(
            f"{one['outcome']}_change",
            one["task"],
            change.tolist(),
            kind="mean" if moved else "paired",
            split=one["split"],
        )
        if moved:
            low, high = bootstrap_interval(change[:, None], seed=seed)
            row |= {"low": float(low[0]), "high": float(high[0])}
        rows.append(row | {"settings": one["settings"]})
    return rows
