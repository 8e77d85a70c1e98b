"""Whether a stage goes the same way in every seed, with an interval over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from limberlm.analysis.agreement import FEWEST_SEEDS
from limberlm.analysis.direction import INCONCLUSIVE, MARGIN, WORDS, Change, Direction, word_of
from limberlm.analysis.plain import plain
from limberlm.errors import UserError


@dataclass(frozen=True)
class SeedChange:
    """What one metric did over a stage, over seeds.

    Attributes: `metric`; `mean` of the seeds' changes with its 95 % interval `low`, `high` over seeds (t with one
    degree of freedom less than seeds; NaN for one seed); `word`, what that interval amounts to; `words`, of each seed
    by its own probe interval; `agrees`, whether those are all the same and conclusive, in three seeds or more.
    """

    metric: str
    mean: float
    low: float
    high: float
    word: str
    words: tuple[str, ...]
    agrees: bool


@dataclass(frozen=True)
class SeedSummary:
    """A stage over several seeds; alpha and the head-removed rank are None where a seed lacks them."""

    rank: SeedChange
    alpha: SeedChange | None
    head_removed: SeedChange | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, None for NaN: fit for JSON."""
        return dict(plain(self))


def over_seeds(directions: Sequence[Direction], *, margin: float = MARGIN) -> SeedSummary:
    """What the same stage did in runs that differ in their seed.

    Raises:
        UserError: there is no run.

    """
    if not directions:
        raise UserError("directions over seeds: no run was given; give one for each seed")
    rank = _over([direction.rank for direction in directions], margin)
    alpha = _over_known([direction.alpha for direction in directions], margin)
    head_removed = _over_known([direction.head_removed for direction in directions], margin)
    return SeedSummary(rank, alpha, head_removed, _sentence(rank))


def _over_known(changes: Sequence[Change | None], margin: float) -> SeedChange | None:
    known = [change for change in changes if change is not None]
    return _over(known, margin) if len(known) == len(changes) else None


def _over(changes: Sequence[Change], margin: float) -> SeedChange:
    values, name = np.array([change.change for change in changes]), changes[0].metric
    mean, n = float(values.mean()), len(values)
    half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / sqrt(n)) if n > 1 else nan
    words = tuple(change.word for change in changes)
    word = word_of(mean - half, mean + half, margin, WORDS[name])
    agrees = len(set(words)) == 1 and words[0] != INCONCLUSIVE and n >= FEWEST_SEEDS
    return SeedChange(name, mean, mean - half, mean + half, word, words, agrees)


def _sentence(rank: SeedChange) -> str:
    count, words = len(rank.words), list(dict.fromkeys(rank.words))
    if count == 1:
        return f"{words[0].capitalize()} in one seed: nothing is known about others."
    each = f"agree ({words[0]})" if len(words) == 1 else f"differ ({', '.join(rank.words)})"
    if words == [INCONCLUSIVE]:
        each = "are each inconclusive"
    span = f"ln effective rank {rank.mean:+.3f}, 95 % over seeds {rank.low:+.3f} to {rank.high:+.3f}: {rank.word}"
    few = "" if count >= FEWEST_SEEDS else f"; a claim needs {FEWEST_SEEDS} seeds"
    return f"{count} seeds {each}; {span}{few}."
