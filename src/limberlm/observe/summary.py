"""From the sums of one pass to rows of the geometry table: every metric with its interval and null value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, nan, sqrt
from typing import Any

import torch
from torch import Tensor

from limberlm.geometry import (
    CATALOG,
    Directions,
    Estimate,
    Metric,
    Moments,
    PackedMoments,
    Undefined,
    centred_directions,
    eigenvalues,
    jackknife,
    participation_ratio_debiased_replicates,
)
from limberlm.observe.observation import CONVENTIONS, RAW, RMS, Observation
from limberlm.observe.probe import BLOCKS
from limberlm.observe.sites import BAND, FINAL_NORM, band_sites, depth_of

OF_RAW_STATES = ("directions", "reservoir", "tokens")
NO_INTERVAL = "no interval: "
NOTHING = -1  # the block that is left out, when none is


@dataclass(frozen=True)
class Cell:
    """One metric at one site under one convention; `reason` when something is undefined."""

    site: str
    depth: float
    metric: Metric
    convention: str
    estimate: Estimate
    null: float
    n_tokens: int
    n_sequences: int
    reason: str = ""


@dataclass(frozen=True)
class _Value:
    """A metric on all blocks and without each (16, NaN for empty ones), on the shown scale."""

    metric: Metric
    value: float
    replicates: list[float]
    reason: str = ""


def default_convention(metric: Metric) -> str:
    """`rms`, or `raw` for metrics that exist only there because they normalise by themselves.

    >>> default_convention(CATALOG["effective_rank"]), default_convention(CATALOG["anisotropy"])
    ('rms', 'raw')
    """
    return RAW if metric.needs in OF_RAW_STATES else RMS


def summarise(observation: Observation) -> list[Cell]:
    """Every catalog metric of every site and convention, then the depth band; in table order.

    Delete-one-block values are exact. The band is the mean of its sites' values, and of their
    delete-one-block values (of the logarithms for log metrics); without all of its blocks there is none.
    """
    cells = [cell for site in observation.sites for cell in _site_cells(observation, site)]
    members = band_sites(observation.layers)
    if set(members) <= set(observation.sites):
        by_site = [[cell for cell in cells if cell.site == site] for site in members]
        cells.extend(_band_cell(same) for same in zip(*by_site, strict=True))
    return cells


def pooled(observation: Observation, site: str, convention: str) -> Moments:
    """The sums of all blocks together."""
    return _merged(observation.blocks(site, convention).values())


def _merged(blocks: Iterable[Moments]) -> Moments:
    first, *rest = blocks
    for block in rest:
        first = first.merge(block)
    return first


def _site_cells(observation: Observation, site: str) -> list[Cell]:
    depth = depth_of(site, observation.layers)
    cells = []
    for convention in CONVENTIONS if site == FINAL_NORM else (RMS, RAW):
        blocks = observation.blocks(site, convention)
        total = _merged(blocks.values())
        width = total.shift.shape[0]
        for value in _values(observation, site, convention, total, blocks):
            estimate, reason = _estimate(value)
            null = _null(value.metric, total.count, width)
            counts = total.count, total.sequences
            cells.append(Cell(site, depth, value.metric, convention, estimate, null, *counts, reason))
    return cells


def _values(
    observation: Observation, site: str, convention: str, total: Moments, blocks: Mapping[int, Moments]
) -> list[_Value]:
    """Every metric of one site and convention, in catalog order."""
    where, units = observation.token_block, _unit_sums(observation.moments[site, RMS])
    parts: dict[str, Callable[[int], Any]] = {
        "spectrum": _Spectra(total, blocks),
        "directions": lambda out: [sums for block, sums in units.items() if block != out],
        "reservoir": _Centred(observation, site, total, blocks),
        "tokens": lambda out: observation.norms[site][where != out],
    }
    return [
        _between_blocks(metric, blocks)
        if metric.needs == "blocks"
        else _leave_one_out(metric, parts[metric.needs], blocks)
        for metric in CATALOG.values()
        if convention == RAW or metric.needs not in OF_RAW_STATES
    ]


def _unit_sums(blocks: Mapping[int, Moments | PackedMoments]) -> dict[int, Directions]:
    """Sums of x/|x| by block, from the sums of rms states: these are sqrt(d) x/|x|."""
    return {
        block: Directions(sums.count, (sums.total + sums.count * sums.shift) / sqrt(len(sums.shift)))
        for block, sums in blocks.items()
    }


class _Spectra:
    """Eigenvalues of the covariance without block `out`, each computed once for all metrics."""

    def __init__(self, total: Moments, blocks: Mapping[int, Moments]) -> None:
        self.total, self.blocks = total, blocks
        self.known: dict[int, Tensor] = {}

    def __call__(self, out: int) -> Tensor:
        if out not in self.known:
            sums = self.total if out == NOTHING else self.total.without(self.blocks[out])
            self.known[out] = eigenvalues(sums.covariance)
        return self.known[out]


class _Centred:
    """Directions of the reservoir about the mean of all tokens, both without block `out`."""

    def __init__(self, observation: Observation, site: str, total: Moments, blocks: Mapping[int, Moments]) -> None:
        self.states, self.where = observation.reservoir[site], observation.reservoir_block
        self.total, self.blocks = total, blocks

    def __call__(self, out: int) -> list[Directions]:
        sums = self.total if out == NOTHING else self.total.without(self.blocks[out])
        kept = self.where != out
        return centred_directions(self.states[kept], self.where[kept], sums.mean, BLOCKS)


def _leave_one_out(metric: Metric, part: Callable[[int], Any], blocks: Iterable[int]) -> _Value:
    """Value on everything and without each block; `part(out)` is what the metric needs without `out`."""
    replicates = [nan] * BLOCKS
    try:
        value = float(metric.compute(part(NOTHING)))
    except Undefined as reason:
        return _Value(metric, nan, replicates, str(reason))
    try:
        for block in blocks:
            replicates[block] = float(metric.compute(part(block)))
    except Undefined as reason:
        return _Value(metric, value, [nan] * BLOCKS, f"{NO_INTERVAL}without block {block}: {reason}")
    return _Value(metric, value, replicates)


def _between_blocks(metric: Metric, blocks: Mapping[int, Moments]) -> _Value:
    """The debiased participation ratio, whose delete-one-block values share the products between blocks."""
    replicates = [nan] * BLOCKS
    sums = list(blocks.values())
    try:
        value = float(metric.compute(sums))
    except Undefined as reason:
        return _Value(metric, nan, replicates, str(reason))
    try:
        found = participation_ratio_debiased_replicates(sums).tolist()
    except Undefined as reason:
        return _Value(metric, value, replicates, f"{NO_INTERVAL}{reason}")
    for block, replicate in zip(blocks, found, strict=True):
        replicates[block] = replicate
    return _Value(metric, value, replicates)


def _estimate(value: _Value) -> tuple[Estimate, str]:
    """The jackknife, or as much of it as is defined, and the reason when something is not."""
    empty = [nan] * BLOCKS
    scale, reason = value.metric.scale, value.reason
    for replicates in (value.replicates, empty):
        try:
            return jackknife(value.value, replicates, scale=scale), reason
        except Undefined as problem:
            reason = value.reason or f"{NO_INTERVAL}{problem}"
    return Estimate(nan, nan, nan, nan, nan, tuple(empty)), reason.removeprefix(NO_INTERVAL)


def rows_of(cell: Cell) -> list[dict[str, Any]]:
    """The table rows of a cell: the metric, and NAME_corrected where the catalog asks for it."""
    estimate = cell.estimate
    row = {
        "site": cell.site,
        "depth": cell.depth,
        "family": cell.metric.family,
        "metric": cell.metric.name,
        "convention": cell.convention,
        "domain": "all",
        "value": estimate.value,
        "std_error": estimate.std_error,
        "low": estimate.low,
        "high": estimate.high,
        "null_value": cell.null,
        "replicates": list(estimate.replicates),
        "n_tokens": cell.n_tokens,
        "n_sequences": cell.n_sequences,
    }
    if not cell.metric.corrected:
        return [row]
    return [row, {**row, "metric": f"{cell.metric.name}_corrected", "value": estimate.corrected}]


def _null(metric: Metric, n: int, width: int) -> float:
    if metric.null is None:
        return nan
    try:
        return float(metric.null(n, width))
    except Undefined:
        return nan


def _band_cell(cells: Sequence[Cell]) -> Cell:
    """One metric over the sites of the band, from its cell at each of them."""
    first = cells[0]
    metric = first.metric
    # replicates are stored on the jackknife's scale, where the mean is the plain one
    stored = torch.tensor([cell.estimate.replicates for cell in cells], dtype=torch.float64).mean(0)
    reasons = [f"{cell.site}: {cell.reason}" for cell in cells if cell.reason]
    estimate, reason = _estimate(
        _Value(
            metric,
            _mean([cell.estimate.value for cell in cells], metric),
            (stored.exp() if metric.scale == "log" else stored).tolist(),
            min(reasons, key=lambda reason: NO_INTERVAL in reason, default=""),
        )
    )
    return replace(
        first,
        site=BAND,
        depth=sum(cell.depth for cell in cells) / len(cells),
        estimate=estimate,
        null=_mean([cell.null for cell in cells], metric),
        n_tokens=min(cell.n_tokens for cell in cells),
        reason=reason,
    )


def _mean(values: Sequence[float], metric: Metric) -> float:
    if metric.scale == "log":
        return exp(sum(log(value) for value in values) / len(values))
    return sum(values) / len(values)
