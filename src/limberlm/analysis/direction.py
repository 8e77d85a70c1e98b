"""What a stage did to the representations: expands, compresses, no change, or inconclusive.

2509.23024 reports that supervised fine-tuning and DPO expand and that reinforcement learning compresses, from one
family and one run each: hypotheses to test, never alarms. The classes and their margin are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import expm1, isnan, log, nan
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from limberlm.analysis.plain import plain
from limberlm.errors import UserError
from limberlm.geometry import CATALOG
from limberlm.observe import Geometry, compare

MARGIN = 0.02
"""Changes that stay inside this either way are none: 2 % of a rank, 0.02 of an exponent."""

RANK, ALPHA, HEAD_REMOVED = "effective_rank", "alpha_req", "head_removed_rank_8"
NO_CHANGE, INCONCLUSIVE = "no change", "inconclusive"
WORDS = {RANK: ("expands", "compresses"), ALPHA: ("rises", "falls"), HEAD_REMOVED: ("expands", "compresses")}
FEWEST_FOR_TAU = 3
LEVEL = 0.05


@dataclass(frozen=True)
class Change:
    """What one metric did over a stage.

    Attributes: `metric`; `change`, the value at the end minus that at the start, of the natural logarithm for ranks,
    without its sampling bias; `low`, `high`, its 95 % interval, paired over the probe blocks, NaN where there is none;
    `word`, what that amounts to; `tau`, Kendall's correlation of the value with its place among the stage's
    `checkpoints`, with its two-sided `tau_p`, NaN with fewer than three; `monotone`, whether `tau_p` < 0.05.
    """

    metric: str
    change: float
    low: float
    high: float
    word: str
    tau: float
    tau_p: float
    monotone: bool
    checkpoints: int


@dataclass(frozen=True)
class Direction:
    """What a stage did: the effective rank, and beside it alpha and the rank behind the first 8 directions.

    The last two are None where the geometries do not hold them.
    """

    rank: Change
    alpha: Change | None
    head_removed: Change | None

    @property
    def word(self) -> str:
        """One of expands, compresses, no change, inconclusive."""
        return self.rank.word

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        found = self.rank
        if isnan(found.low):
            return f"Inconclusive: effective rank changed by {_percent(found.change)}, without an interval."
        span = f"{_percent(found.low)} to {_percent(found.high)}"
        way = ", monotonically" if found.monotone and found.word in WORDS[RANK] else ""
        return f"{found.word.capitalize()}{way}: effective rank changed by {_percent(found.change)} (95 % {span})."

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, None for NaN: fit for JSON."""
        return {"word": self.word, "sentence": self.sentence, **plain(self)}


def stage_direction(
    start: Geometry,
    end: Geometry,
    between: Sequence[Geometry] = (),
    *,
    site: str = "final_norm",
    convention: str = "last",
    margin: float = MARGIN,
) -> Direction:
    """What a stage did between two checkpoints, read on one probe.

    Delta = ln effective rank (`end`) - ln effective rank (`start`) with a paired jackknife interval: "expands" if that
    lies above `margin`, "compresses" below -`margin`, "no change" within the two, else, or without an interval,
    "inconclusive". `between` are the stage's other checkpoints, in order: they decide `monotone` alone. Alpha has the
    same rule with the words rises and falls.

    Raises:
        UserError: the geometries were not measured alike, or lack the effective rank there.
        ValueError: the margin is negative.

    """
    if not margin >= 0:
        raise ValueError(f"margin {margin}: 0 or more")
    series = [start, *between, end]
    changes = {name: _change(series, name, site, convention, margin) for name in WORDS}
    rank = changes[RANK]
    if rank is None or isnan(rank.change):
        raise UserError(f"{RANK} at {site}, {convention}: not in all of these geometries; measure it in each")
    return Direction(rank, changes[ALPHA], changes[HEAD_REMOVED])


def word_of(low: float, high: float, margin: float, words: tuple[str, str]) -> str:
    """What an interval says of a change: `words` are those for above and below the margin.

    >>> [word_of(*interval, 0.02, ("up", "down")) for interval in [(0.03, 0.1), (-0.1, -0.03), (-0.01, 0.02)]]
    ['up', 'down', 'no change']
    >>> word_of(-0.01, 0.05, 0.02, ("up", "down"))
    'inconclusive'
    """
    if low > margin:
        return words[0]
    if high < -margin:
        return words[1]
    return NO_CHANGE if -margin <= low and high <= margin else INCONCLUSIVE


def _change(series: Sequence[Geometry], name: str, site: str, convention: str, margin: float) -> Change | None:
    parts = [_only(geometry, name, site, convention) for geometry in series]
    if any(part.table.empty for part in parts):
        return None
    found = [compare(parts[0], part).table.iloc[0] for part in parts[1:]]  # refuses what was not measured alike
    on_scale = log if CATALOG[name].scale == "log" else float
    low, high = (on_scale(found[-1][key]) for key in ("low", "high"))
    # without blocks there is no corrected change, and still a change
    changes = [on_scale(row["change"] if isnan(row["corrected"]) else row["corrected"]) for row in found]
    tau, p = _tau([0.0, *changes])
    word = word_of(low, high, margin, WORDS[name])
    return Change(name, changes[-1], low, high, word, tau, p, p < LEVEL, len(series))


def _only(geometry: Geometry, name: str, site: str, convention: str) -> Geometry:
    """The one row of a geometry that is asked for, or none."""
    table = geometry.table
    chosen = (table["metric"] == name) & (table["site"] == site) & (table["convention"] == convention)
    return replace(geometry, table=table[chosen])


def _tau(values: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau of values with their order, and its p-value; NaN if there are too few or all are equal."""
    if len(values) < FEWEST_FOR_TAU or not np.isfinite(values).all() or np.ptp(values) == 0:
        return nan, nan
    found = kendalltau(range(len(values)), values)
    return float(found.statistic), float(found.pvalue)


def _percent(change: float) -> str:
    """A change of the logarithm as a percentage.

    >>> _percent(0.1), _percent(-0.02)
    ('+10.5 %', '-2.0 %')
    """
    return f"{100 * expm1(change):+.1f} %"
