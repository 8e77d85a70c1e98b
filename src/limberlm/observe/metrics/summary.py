"""From the statistics of one pass to rows of the geometry table: every metric with its interval and null value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log, nan
from typing import Any

import torch

from limberlm.geometry import Estimate, Metric, Undefined, jackknife
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.gap_transfer import TransferredSpectra
from limberlm.geometry.uncertainty import MIN_BLOCKS, Centre
from limberlm.observe.forward.observation import Observation
from limberlm.observe.metrics.parts import NOTHING, Parts
from limberlm.observe.names import (
    BAND,
    EMBED,
    FINAL_NORM,
    LAST,
    LOGITS,
    RAW,
    REFERENCE,
    RMS,
    TRIMMED,
    UNCENTRED,
    band_sites,
    depth_of,
)

NO_INTERVAL = "no interval: "
EXACT = 1024
"""The width up to which every delete-one-block spectrum is solved for; above, gap transfer."""


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


@dataclass
class _Value:
    """A metric on all blocks and without each (NaN for empty ones), on the shown scale."""

    metric: Metric
    value: float = nan
    replicates: list[float] = field(default_factory=list)
    reason: str = ""


def summarise(observation: Observation) -> list[Cell]:
    """Every metric of the request at every site under every convention, then the depth band; in table order.

    Delete-one-block values are exact up to 1024 dimensions; spectra of wider states use gap transfer. The band is
    the mean of its sites' values, and of their delete-one-block values (of the logarithms for log metrics);
    without all of its blocks there is none.
    """
    return with_band(observation, [cell for site in reported(observation) for cell in site_cells(observation, site)])


def reported(observation: Observation) -> list[str]:
    """The sites that have rows of their own, in table order."""
    return [*observation.sites, *([LOGITS] if observation.head is not None else [])]


def with_band(observation: Observation, cells: list[Cell]) -> list[Cell]:
    """The cells of every site, and those of the depth band where all of its blocks were read."""
    members = band_sites(observation.layers)
    inside = set(members) <= set(observation.sites)
    return [*cells, *(_band_cells(cells, members) if inside else [])]


def site_cells(observation: Observation, site: str) -> Iterator[Cell]:
    """Every metric of the request at one site, from what was kept there; of logits, from what was at `final_norm`."""
    for convention in _conventions(observation, site):
        metrics = [m for m in observation.request.metrics if convention in _conventions_of(m) and _lives_at(m, site)]
        parts = Parts(observation, site, convention)
        if not metrics or (convention == TRIMMED and not parts.massive):
            continue
        for value in _values(parts, metrics):
            yield _cell(observation, parts, value)


def _conventions(observation: Observation, site: str) -> Iterator[str]:
    """The conventions that a site is reported under, in table order."""
    for convention in observation.request.conventions:
        if (convention == LAST and site != FINAL_NORM) or (site == LOGITS and convention != RAW):
            continue
        yield convention
        if convention == RAW and site != LOGITS:
            yield TRIMMED
        if convention == RMS:
            yield UNCENTRED
            if observation.reference is not None:
                yield REFERENCE


def _conventions_of(metric: Metric) -> tuple[str, ...]:
    trimmed = RAW in metric.conventions and metric.needs in ("spectrum", "moments", "blocks")
    return (*metric.conventions, TRIMMED) if trimmed else metric.conventions


def _lives_at(metric: Metric, site: str) -> bool:
    if site == LOGITS or metric.sites == "logits":
        return site == LOGITS and metric.sites == "logits"
    if metric.sites == "blocks":
        return site not in (EMBED, FINAL_NORM)
    return metric.sites == "hidden" or site == FINAL_NORM


def _values(parts: Parts, metrics: Sequence[Metric]) -> list[_Value]:
    """Every metric on all blocks, then without each; metrics that share a part come one after the other."""
    blocks = parts.seen.request.blocks
    found = [_Value(metric, replicates=[nan] * blocks) for metric in metrics]
    for value in found:
        try:
            value.value = float(value.metric.compute(parts.take(value.metric, NOTHING)))
        except Undefined as reason:
            value.reason = str(reason)
    wide = parts.width > EXACT
    going = [value for value in found if not value.reason and value.metric.has_interval]
    holding = {value.metric.name: parts.holding(value.metric) for value in going}
    for block in parts.filled if len(parts.filled) > 1 else ():
        for value in going:
            exact = not (wide and value.metric.needs == "spectrum")
            if exact and not value.reason and block in holding[value.metric.name]:
                _leave_out(value, parts, block)
    if wide:
        _transfer([value for value in going if value.metric.needs == "spectrum"], parts)
    for value in going:
        part = len(holding[value.metric.name])
        if not value.reason and part < MIN_BLOCKS <= len(parts.filled):
            value.reason = f"{NO_INTERVAL}{part} blocks have a part in it"
    return found


def _leave_out(value: _Value, parts: Parts, block: int) -> None:
    try:
        value.replicates[block] = float(value.metric.compute(parts.take(value.metric, block)))
    except Undefined as reason:
        value.replicates = [nan] * len(value.replicates)
        value.reason = f"{NO_INTERVAL}without block {block}: {reason}"


def _transfer(values: Sequence[_Value], parts: Parts) -> None:
    """Delete-one-block values of wide spectra, from four exact solves."""
    if not values:
        return
    spectra = TransferredSpectra(parts.sums.total, parts.sums.blocks)
    for value in values:
        try:
            for block, replicate in spectra.replicates(value.metric.compute, value.metric.scale).items():
                value.replicates[block] = replicate
        except Undefined as reason:
            value.reason = f"{NO_INTERVAL}{reason}"


def _cell(observation: Observation, parts: Parts, value: _Value) -> Cell:
    metric, site = value.metric, parts.site
    estimate, reason = _estimate(value)
    if not metric.has_interval and not reason:
        reason = f"{NO_INTERVAL}{'whole numbers have none' if metric.integer else 'see its note'}"
    tokens, sequences = parts.counts(metric)
    counts = Counts(
        rows=tokens,
        width=parts.width,
        sequences=sequences,
        domains=len(observation.selection.domains),
        updates=round(depth_of(site, observation.layers) * observation.layers),
        vocabulary=observation.head.vocabulary if observation.head is not None else 1,
    )
    depth = depth_of(site, observation.layers)
    return Cell(site, depth, metric, parts.convention, estimate, _null(metric, counts), tokens, sequences, reason)


def _estimate(value: _Value) -> tuple[Estimate, str]:
    """The jackknife, or as much of it as is defined, and the reason when something is not."""
    empty = [nan] * len(value.replicates)
    scale, reason = value.metric.scale, value.reason
    centre: Centre = "value" if value.metric.interval == "value" else "corrected"
    for replicates in (value.replicates, empty):
        try:
            return jackknife(value.value, replicates, scale=scale, centre=centre), reason
        except Undefined as problem:
            reason = value.reason or f"{NO_INTERVAL}{problem}"
    if value.value == 0:  # it has no logarithm, and is a number all the same
        return Estimate(0.0, nan, nan, nan, nan, tuple(empty)), reason
    return Estimate(nan, nan, nan, nan, nan, tuple(empty)), reason.removeprefix(NO_INTERVAL)


def _null(metric: Metric, counts: Counts) -> float:
    if metric.null is None:
        return nan
    try:
        return float(metric.null(counts))
    except Undefined:
        return nan


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


def _band_cells(cells: Sequence[Cell], members: Sequence[str]) -> Iterator[Cell]:
    """The mean over the band of each metric that all its sites have."""
    by_key: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.site in members:
            by_key.setdefault((cell.metric.name, cell.convention), []).append(cell)
    return (_band_cell(same) for same in by_key.values() if len(same) == len(members))


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
        n_sequences=min(cell.n_sequences for cell in cells),
        reason=reason,
    )


def _mean(values: Sequence[float], metric: Metric) -> float:
    """The mean on the metric's scale; NaN if any value is, or is not positive on the logarithmic one."""
    if metric.scale == "log":
        return exp(sum(log(value) for value in values) / len(values)) if all(v > 0 for v in values) else nan
    return sum(values) / len(values)
