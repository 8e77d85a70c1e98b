"""The geometry of one checkpoint of a trace: which metrics, at which sites, and what is derived from the covariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import nan
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel

from limberlm.geometry import effective_rank, eigenvalues
from limberlm.observe import Geometry, measure
from limberlm.observe.table.geometry import SCHEMA
from limberlm.study.series.settings import MeasureSettings
from limberlm.study.trace.probe import TraceProbe

LEVELS = ("effective_rank", "rankme")
"""What fewer rows than dimensions say nothing of."""

METRICS = (
    *LEVELS,
    "participation_ratio_debiased",
    "participation_ratio",
    "stable_rank",
    "variance_share_1",
    "variance_share_8",
    "mean_share",
    "alpha_req",
    "alpha_r_squared",
    "alpha_curvature",
)
BANDS = {"alpha_band_32_128": 128, "alpha_band_128_512": 512, "alpha_band_512": 1024}
"""Exponents by band, with the width from which each exists."""
RELEASED = "rank_tracing_release"
FINAL_NORM, LAST = "final_norm", "last"


def chosen_metrics(settings: MeasureSettings, width: int) -> list[str]:
    """The metrics a trace takes of states of this width."""
    names = [*METRICS, *(f"head_removed_rank_{k}" for k in settings.head_removed)]
    names += [name for name, needed in BANDS.items() if width >= needed]
    return [*names, RELEASED] if settings.estimator == "released" else names


def layers_of(settings: MeasureSettings) -> list[int] | None:
    """The blocks to read, None for all of them; final_norm is always read."""
    sites = settings.sites or (FINAL_NORM, "last_block")
    if "all" in sites:
        return None
    blocks = [int(site.removeprefix("block.")) for site in sites if site.startswith("block.")]
    return [*blocks, *([-1] if "last_block" in sites else [])]


def measure_geometry(
    settings: MeasureSettings, probe: TraceProbe, model: PreTrainedModel, progress: Callable[[int, int], None]
) -> Geometry:
    """Read the probe; only what is asked for is summed.

    Of fewer rows than dimensions the rank levels under `last` are left undefined: they would count rows.

    Raises:
        UserError: a state is not finite, or a site does not exist.
    """
    width = int(model.config.get_text_config().hidden_size)
    only_last = settings.conventions == (LAST,)
    found = measure(
        model,
        probe.probe,
        preset="rankme_lasttoken" if only_last else "robust",
        metrics=chosen_metrics(settings, width),
        layers=None if only_last else layers_of(settings),
        batch_size=settings.batch_size,
        progress=progress,
    )
    return found if len(probe) > width else _without_levels(found, len(probe), width)


def _without_levels(geometry: Geometry, rows: int, width: int) -> Geometry:
    reason = f"{rows} rows in {width} dimensions; give more probe texts"
    table = geometry.table.copy()
    names = [name for level in LEVELS for name in (level, f"{level}_corrected")]
    empty = (table["convention"] == LAST) & table["metric"].isin(names)
    table.loc[empty, ["value", "std_error", "low", "high"]] = nan
    table["replicates"] = [
        [nan] * len(own) if out else own for own, out in zip(table["replicates"], empty, strict=True)
    ]
    undefined = {f"{FINAL_NORM}/{LAST}/{level}": reason for level in LEVELS}
    manifest = {**geometry.manifest, "undefined": geometry.manifest["undefined"] | undefined}
    return replace(geometry, table=table, manifest=manifest)


def companions(geometry: Geometry) -> pa.Table:
    """Rows of `metrics.parquet` for what no metric of the catalog is: both without an interval.

    `trace`, tr S, the total variance. `effective_rank_uncentred`, exp H of the eigenvalues of the second moment about
    the origin. From the covariance as stored (float32).
    """
    rows: list[dict[str, Any]] = []
    for convention in (LAST, "rms", "raw"):
        name = f"{FINAL_NORM}/{convention}"
        if f"{name}/covariance" not in geometry.statistics:
            continue
        covariance = geometry.covariance(FINAL_NORM, convention).double()
        mean, count = (geometry.statistics[f"{name}/{part}"].double() for part in ("mean", "count"))
        second = covariance * (count - 1) / count + torch.outer(mean, mean)
        own = geometry.table[(geometry.table["site"] == FINAL_NORM) & (geometry.table["convention"] == convention)]
        first = {str(name): value for name, value in own.iloc[0].items()}
        first |= dict.fromkeys(("std_error", "low", "high", "null_value"), nan)
        first |= {"family": "spectrum", "replicates": []}
        rows.append(first | {"metric": "trace", "value": float(covariance.trace())})
        rows.append(first | {"metric": "effective_rank_uncentred", "value": _rank(second)})
    return pa.table({field.name: pa.array([row[field.name] for row in rows], field.type) for field in SCHEMA})


def _rank(second: Tensor) -> float:
    return float(effective_rank(eigenvalues(second))) if float(second.trace()) > 0 else nan


def spectrum(geometry: Geometry) -> pd.DataFrame:
    """Eigenvalues of the headline covariance, largest first, from the covariance as stored (float32)."""
    convention = LAST if f"{FINAL_NORM}/{LAST}/covariance" in geometry.statistics else "rms"
    values = torch.linalg.eigvalsh(geometry.covariance(FINAL_NORM, convention).double()).flip(0).clamp(min=0)
    columns = {"site": FINAL_NORM, "convention": convention, "rank": range(1, len(values) + 1)}
    return pd.DataFrame({**columns, "eigenvalue": values.tolist()})
