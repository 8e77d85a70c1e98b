"""What the catalog says about one metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Direction = Literal["down", "up", "drift"]
Suite = Literal["core", "full", "preset"]
Needs = Literal[
    "spectrum",
    "moments",
    "blocks",
    "directions",
    "centred",
    "norms",
    "neighbours",
    "pairs",
    "domains",
    "pooled",
    "tokens",
    "sequences",
    "units",
    "activations",
    "cross",
    "cross_moments",
    "subspaces",
    "distances",
    "update",
    "updates",
]


@dataclass(frozen=True)
class Counts:
    """What a null value may depend on.

    Attributes: `rows` that entered, of `width` coordinates, from `sequences` sequences in `domains` domains;
    `updates`, the blocks passed so far; `vocabulary` size.
    """

    rows: int
    width: int
    sequences: int = 1
    domains: int = 1
    updates: int = 1
    vocabulary: int = 1


@dataclass(frozen=True)
class Metric:
    """A row of the catalog.

    Attributes:
        name: as in the table.
        family: which part of the model it looks at; the catalog's sections.
        title: the name in words.
        formula: one line of plain text.
        source: paper, equation; or "our choice".
        bounds: the range of values.
        direction: the way the value moves when features concentrate or become alike; "drift" for distances from a
            reference. No verdict: tests are two-sided.
        scale: the jackknife's.
        needs: what `compute` takes; `observe.parts` says how each is had.
        compute: the pure function.
        conventions: those it is reported under, the default first.
        sites: where it is read: states of all sites, of blocks only, of the final norm only, or the logits.
        requires: for needs "update" and "updates", the fields of `Change` beyond the update itself.
        reads: for needs "tokens" and "sequences", the name of the values that `compute` takes.
        null: the value when there is nothing to see (isotropic, independent, unrelated), or None.
        corrected: whether the bias-corrected value has a row NAME_corrected.
        integer: integer-valued, so it has no interval.
        interval: what the interval is centred on: the bias-corrected value; the value itself, where leaving out a
            block tells the spread but not the bias; or none, where it tells neither.
        suite: "core" is always measured, "full" on request, "preset" by the presets that name it.
        rows_per_dimension: n/d from which the plug-in bias is about 1 %; None where n is no matter of bias.
        note: invariances, sample size, when it is undefined.
        misses: what the metric cannot see, or mistakes for collapse.
        oracle: what the tests hold it against.
    """

    name: str
    family: str
    title: str
    formula: str
    source: str
    bounds: str
    direction: Direction
    scale: Literal["log", "linear"]
    needs: Needs
    compute: Callable[[Any], Tensor]
    note: str
    misses: str = ""
    oracle: str = ""
    conventions: tuple[str, ...] = ("rms", "raw")
    sites: Literal["hidden", "blocks", "final_norm", "logits"] = "hidden"
    requires: tuple[str, ...] = ()
    reads: str = ""
    null: Callable[[Counts], float] | None = None
    corrected: bool = False
    integer: bool = False
    interval: Literal["corrected", "value", "none"] = "corrected"
    suite: Suite = "core"
    rows_per_dimension: float | None = None

    @property
    def has_interval(self) -> bool:
        """Whether leaving out blocks can tell how far the value may be off."""
        return not self.integer and self.interval != "none"
