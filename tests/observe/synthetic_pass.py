"""Coverage of the intervals and error rates of the paired test, on made-up checkpoints read by the real pass.

The truth is what a law gives for endlessly many sequences: read off far larger draws, whose own error is small
against an interval. Where a metric depends on how many sequences there are, it is what that many give on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import isnan
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

from limberlm.geometry import CATALOG, Metric
from limberlm.observe import Geometry, compare
from limberlm.observe.forward.observation import Observation, observe
from limberlm.observe.forward.request import Request
from limberlm.observe.metrics.summary import Cell, rows_of, summarise
from limberlm.observe.names import EMBED, FINAL_NORM
from limberlm.observe.probe.chosen import choose_sequences
from limberlm.observe.table.geometry import frame_of
from tests.observe.made_up import Law, Told

SITES = (EMBED, "block.0", "block.1", "block.2")
WINDOW = 12
"""Tokens of a trajectory here, so that short sequences have one."""

LARGE_SEED = 10**6
"""Where the seeds start of the draws that the truth is read off."""

RESERVOIR = 256
"""Tokens kept one by one here."""

AT_THIS_SIZE = ("twonn", "mle_dimension", "domain_probe_accuracy")
"""Metrics that depend on how many sequences there are: their truth is the mean over repetitions."""

BEFORE = ("massive_tokens", "anisotropy_centred", "effective_rank")
"""Read before the final norm too, where there are massive tokens."""

BOTH = ("effective_rank", "rankme", "participation_ratio", "stable_rank")
"""Read under `rms` and `raw`; of the others `rms` stands for both."""

LATE = (
    *("effective_rank", "rankme", "participation_ratio", "variance_share_8", "variance_share_32"),
    *("head_removed_rank_8", "head_removed_rank_32", "alpha_req", "alpha_curvature", "alpha_band_32_128"),
)
"""Metrics of late ranks, which need wide states."""

PAIRED = (
    *("effective_rank", "participation_ratio_debiased", "rankme", "variance_share_8", "anisotropy", "uniformity"),
    *("mle_dimension", "domain_separability", "homogeneity_between", "domain_probe_accuracy"),
    *("entropy_median", "entropy", "margin", "curvature", "velocity", "cka"),
)
"""Metrics that the paired test is tried on, some of each family."""

Key = tuple[str, str, str]


def _late(name: str) -> bool:
    return name.startswith("alpha_") or name.endswith("_32")


@dataclass(frozen=True)
class Design:
    """What is read in a repetition: `sequences` drawn from `law`, and `metrics` at `sites`.

    `large`, how many sequences a draw for the truth has; `exact`, the widest states whose delete-one-block spectra are
    all solved for; `reference`, whether there is one.
    """

    law: Law = field(default_factory=Law)
    sequences: int = 160
    metrics: tuple[Metric, ...] = ()
    sites: tuple[str, ...] = (FINAL_NORM,)
    large: int = 2048
    exact: int = 1024
    reference: bool = True

    @property
    def request(self) -> Request:
        """As the pass takes it."""
        asked = Request.of(suite="full")
        read = {name for metric in self.metrics for name in metric.conventions}
        conventions = tuple(name for name in asked.conventions if name in read)
        return replace(asked, metrics=self.metrics, preset=replace(asked.preset, conventions=conventions))

    def only(self, names: Sequence[str]) -> Design:
        """The same with fewer metrics, each under one convention."""
        kept = (metric for metric in self.metrics if metric.name in names)
        return replace(self, metrics=tuple(replace(metric, conventions=metric.conventions[:1]) for metric in kept))


def with_interval() -> list[Metric]:
    """The metrics whose coverage there is to measure."""
    return [metric for metric in CATALOG.values() if metric.conventions and metric.has_interval]


def _usual(metric: Metric) -> Metric:
    conventions = metric.conventions
    if "rms" in conventions and metric.name not in BOTH:
        conventions = tuple(name for name in conventions if name != "raw")
    return replace(metric, conventions=conventions)


USUAL = Design(
    metrics=tuple(
        _usual(metric)
        for metric in with_interval()
        if metric.sites != "blocks" and metric.name != "massive_tokens" and not _late(metric.name)
    )
)
DEPTH = Design(
    metrics=tuple(
        replace(metric, conventions=("raw",))
        for metric in with_interval()
        if metric.sites == "blocks" or metric.name in BEFORE
    ),
    sites=SITES,
    reference=False,
)
WIDE = Design(
    Law(width=132, exponent=1.0, turn=0.2, lengths=(8, 14), drift=0.0),
    sequences=768,
    large=16384,
    metrics=tuple(replace(CATALOG[name], conventions=("rms",)) for name in LATE),
    sites=(FINAL_NORM,),
    reference=False,
)


@contextmanager
def scaled(design: Design, *, large: bool = False) -> Iterator[None]:
    """The pass with shorter windows and a smaller reservoir; for the truth with room for all of a large draw."""
    times = design.large / design.sequences if large else 1
    keeping = {
        "observe.forward.selection.RESERVOIR": round(RESERVOIR * times),
        "observe.forward.selection.TOKENS": 10**7,
        "observe.forward.selection.choose_sequences": partial(choose_sequences, size=10**7),
        "observe.forward.observation.final_norm_scale": lambda sites: torch.ones(design.law.width, dtype=torch.float64),
        "observe.forward.collect.windows.WINDOW": WINDOW,
        "observe.forward.collect.windows.HSIC": 10**7,
        "observe.metrics.summary.EXACT": design.exact,
        "geometry.similarity.MOST_ROWS": 1500,
    }
    with ExitStack() as stack:
        # planning the order of a sum costs more than the sum at this size
        stack.enter_context(patch("torch.backends.opt_einsum.enabled", False))
        for name, value in keeping.items():
            stack.enter_context(patch(f"limberlm.{name}", value))
        yield


def passes(design: Design, sequences: int, seed: int, others: tuple[Law, ...] = ()) -> list[Observation]:
    """One pass over a fresh probe for the law's checkpoint, and one for each of `others`."""
    texts = design.law.texts(sequences, seed)
    if FINAL_NORM in design.sites:
        start, *states = design.law.checkpoints(texts, seed, others=others)
    else:
        states = [law.through_depth(texts, seed) for law in (design.law, *others)]
    reference = Told(start).subject(design.law.head) if design.reference else None
    requests = design.request, *[design.only(PAIRED).request] * len(others)
    found = []
    for law, asked, told in zip((design.law, *others), requests, states, strict=True):
        model, sites, head = (subject := Told(told).subject(law.head)).model, subject.sites, subject.head
        arguments = {
            "request": asked,
            "head": head,
            "reference": reference,
            "batch_size": 64 if sequences > 400 else 16,
        }
        found.append(observe(model, sites, design.sites, texts.probe, **arguments))
    return found


def truth(design: Design, draws: int) -> dict[Key, float]:
    """The value of every metric for endlessly many sequences: the mean over `draws` large ones, bias-corrected.

    On the jackknife's scale. The share of massive tokens is the law's own.
    """
    kept = replace(design, metrics=tuple(m for m in design.metrics if m.name not in AT_THIS_SIZE))
    values: dict[Key, list[float]] = {}
    with scaled(kept, large=True):
        for draw in range(draws):
            for cell in summarise(passes(kept, kept.large, LARGE_SEED + draw)[0]):
                values.setdefault(key(cell), []).append(on_scale(cell.metric, cell.estimate.corrected))
    means = {where: float(np.mean(found)) for where, found in values.items()}
    return {where: design.law.massive if where[2] == "massive_tokens" else mean for where, mean in means.items()}


def effect(design: Design, other: Law, draws: int) -> dict[Key, float]:
    """The true difference of a checkpoint of another law, as `truth`."""
    values: dict[Key, list[float]] = {}
    with scaled(design, large=True):
        for draw in range(draws):
            found = passes(design, design.large, LARGE_SEED + draw, (other,))
            before, after = ({key(c): on_scale(c.metric, c.estimate.corrected) for c in summarise(o)} for o in found)
            for where in before.keys() & after.keys():
                values.setdefault(where, []).append(after[where] - before[where])
    return {where: float(np.mean(found)) for where, found in values.items()}


def repetitions(design: Design, count: int, others: tuple[Law, ...] = ()) -> Iterator[list[list[Cell]]]:
    """The table of the law's checkpoint and of each of `others`, on a fresh probe each time."""
    with scaled(design):
        for seed in range(count):
            yield [summarise(observation) for observation in passes(design, design.sequences, seed, others)]


def key(cell: Cell) -> Key:
    """Site, convention and metric."""
    return cell.site, cell.convention, cell.metric.name


def on_scale(metric: Metric, value: float) -> float:
    """The value on the jackknife's scale."""
    return float(np.log(value)) if metric.scale == "log" else value


@dataclass
class Coverage:
    """How often the intervals of each metric hold the truth."""

    truth: dict[Key, float]
    seen: dict[Key, list[tuple[float, ...]]] = field(default_factory=dict)

    def add(self, cells: Iterable[Cell]) -> None:
        """One repetition."""
        for cell in cells:
            found, scale = cell.estimate, partial(on_scale, cell.metric)
            ends = scale(found.value), scale(found.corrected), scale(found.low), scale(found.high), found.std_error
            self.seen.setdefault(key(cell), []).append(ends)

    def table(self) -> pd.DataFrame:
        """One row per site, convention and metric.

        `coverage` of `repetitions`; `truth` and `mean`, of the value, as people read them; `bias` of the interval's
        centre, in standard errors; `error`, the mean standard error over the spread of that centre.
        """
        found = ((where, np.array(ends)) for where, ends in self.seen.items())
        return pd.DataFrame([self._row(where, ends) for where, ends in found if not np.isnan(ends).any(1).all()])

    def _row(self, where: Key, ends: np.ndarray) -> dict[str, object]:
        metric = CATALOG[where[2]]
        value, centre, low, high, error = ends[~np.isnan(ends).any(1)].T
        truth = value.mean() if metric.name in AT_THIS_SIZE else self.truth[where]
        shown = np.exp if metric.scale == "log" else float
        size = np.sqrt((error**2).mean())
        return {
            "family": metric.family,
            **dict(zip(("site", "convention", "metric"), where, strict=True)),
            "truth": shown(truth),
            "mean": shown(value.mean()),
            "coverage": ((low <= truth) & (truth <= high)).mean(),
            "repetitions": len(value),
            "bias": (centre.mean() - truth) / size if size else 0.0,
            "error": size / centre.std(ddof=1) if size else 1.0,
        }


@dataclass
class Rejections:
    """How often the paired test finds a difference at 5 %."""

    p_values: dict[Key, list[float]] = field(default_factory=dict)
    errors: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, before: Sequence[Cell], after: Sequence[Cell]) -> None:
        """One repetition."""
        for row in compare(geometry(before), geometry(after)).table.to_dict("records"):
            if not isnan(row["p_value"]):
                where = row["site"], row["convention"], row["metric"]
                self.p_values.setdefault(where, []).append(row["p_value"])
                self.errors.setdefault(where, []).append(row["std_error"])

    def table(self) -> pd.DataFrame:
        """One row per site, convention and metric: the share `rejected` of `repetitions`, and `error`, the mean SE."""
        return pd.DataFrame(
            {
                "family": CATALOG[where[2]].family,
                **dict(zip(("site", "convention", "metric"), where, strict=True)),
                "rejected": np.mean(np.array(found) < 0.05),
                "repetitions": len(found),
                "error": np.mean(self.errors[where]),
            }
            for where, found in self.p_values.items()
        )


def geometry(cells: Sequence[Cell]) -> Geometry:
    """The table of one checkpoint, with no more of a manifest than a comparison looks at."""
    rows = [row for cell in cells for row in rows_of(cell)]
    return Geometry(frame_of(rows), {"checkpoint": {}, "probe": {"digest": "made up"}, "convention": {}}, {})
