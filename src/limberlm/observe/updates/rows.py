"""The rows of an update table: every metric of each module's changes with its null, and their summary over modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from math import isnan, nan, sqrt
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from limberlm.geometry.catalog.record import Metric
from limberlm.geometry.catalog.updates import METRICS
from limberlm.geometry.undefined import Undefined
from limberlm.geometry.update_null import null_alone, null_between, rotated_energies
from limberlm.geometry.updates import Change, leading_directions, overlap_grid, update_angles
from limberlm.geometry.weights import rotation

TOTAL = "total"
GRID = 16
PERMUTED = "update_excess_overlap_permuted"
COLUMNS = "module layer kind d_out d_in stage other metric value null_value null_sd z weight detail reason".split()

# Summed up otherwise than by a mean weighted with |dW_s| |dW_t|.
_ROOT_SUM, _ROOT_MEAN = {"update_norm"}, {"relative_update_norm"}
_EVEN = {"intruder_dimensions", "rotation_in", "rotation_out", "initial_overlap", "initial_overlap_between"}

_KINDS = (
    ("head", r"lm_head|embed_out|score|classifier"),
    ("embedding", r"embed|wte|wpe"),
    ("attention", r"attn|attention"),
    ("mlp", r"mlp|ffn|feed_forward|fc\d|experts?"),
)


def describe(module: str, shape: tuple[int, int]) -> dict[str, Any]:
    """A module's columns: the number of its block, -1 where there is none, and its kind from its name.

    >>> list(describe("model.layers.3.self_attn.q_proj", (8, 4)).values())
    ['model.layers.3.self_attn.q_proj', 3, 'attention', 8, 4]
    """
    number = re.search(r"\.(\d+)\.", f".{module}.")
    kind = next((kind for kind, words in _KINDS if re.search(words, module)), "other")
    layer = int(number.group(1)) if number else -1
    return {"module": module, "layer": layer, "kind": kind, "d_out": shape[0], "d_in": shape[1]}


def module_rows(module: str, stages: Sequence[str], changes: Sequence[Change], seed: int) -> list[dict[str, Any]]:
    """All rows of one module: each stage, the total if it is among the `changes`, and each pair of stages."""
    about = describe(module, changes[0].update.shape)
    rows = []
    for number, (name, change) in enumerate(zip([*stages, TOTAL], changes, strict=False)):
        place = _place(seed, module, number)
        rows += [about | {"stage": name, "other": ""} | row for row in _alone(change, place)]
    for i, j in combinations(range(len(stages)), 2):
        place = _place(seed, module, i, j)
        rows += [
            about | {"stage": stages[j], "other": stages[i]} | row for row in _between(changes[i], changes[j], place)
        ]
    return rows


def permuted_rows(
    module: str, stages: Sequence[str], others: Sequence[Change], changes: Sequence[Change]
) -> list[dict[str, Any]]:
    """The null of module permutation: an earlier stage's change of another module against a later one's of this."""
    about = describe(module, changes[0].update.shape)
    metric = next(metric for metric in METRICS if metric.name == PERMUTED)
    return [
        about | {"stage": stages[j], "other": stages[i]} | _row(metric, (others[i], changes[j]), 0)
        for i, j in combinations(range(len(stages)), 2)
    ]


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per stage or pair and metric, over modules.

    Values, nulls and deviations are means weighted with |dW_s| |dW_t| (|dW|^2 of one stage); norms are those of all
    modules together; counts, rotations and initialisations weigh evenly. `lower_quartile` and `upper_quartile` are
    of the modules' own values. Modules where the metric is undefined are left out and counted in `undefined`.
    """
    found = []
    for (stage, other, metric), group in rows.groupby(["stage", "other", "metric"], sort=False):
        found.append({"stage": stage, "other": other, "metric": metric} | _pooled(str(metric), group))
    return pd.DataFrame(found)


def _place(seed: int, module: str, *numbers: int) -> int:
    """A seed for each place in the table: a summary's z would otherwise meet one error of a sampled null many times."""
    return seed ^ crc32(f"{module} {numbers}".encode())


def _alone(change: Change, seed: int) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        if metric.needs == "update" and metric.name != "output_drift" and _at_hand(metric, change):
            yield _row(metric, change, seed)


def _between(earlier: Change, later: Change, seed: int) -> Iterator[dict[str, Any]]:
    for metric in METRICS:
        if metric.needs == "updates" and metric.name != PERMUTED and _at_hand(metric, earlier, later):
            yield _row(metric, (earlier, later), seed)


def _at_hand(metric: Metric, *changes: Change) -> bool:
    return all(getattr(change, field) is not None for change in changes for field in metric.requires)


def _row(metric: Any, given: Change | tuple[Change, Change], seed: int) -> dict[str, Any]:
    pair = given if isinstance(given, tuple) else (given, given)
    value, reason, detail, null = nan, "", [], None
    try:
        value = float(metric.compute(given))
        null = null_between(metric.name, *pair, seed) if pair is given else null_alone(metric.name, pair[0], seed)
        detail = [float(x) for x in _detail(metric.name, *pair, seed)]
    except Undefined as undefined:
        reason = str(undefined)
    return {
        "metric": metric.name,
        "value": value,
        "null_value": null.value if null else nan,
        "null_sd": null.std_dev if null else nan,
        "z": null.z(value) if null else nan,
        "weight": _weight(metric.name, *pair),
        "detail": detail,
        "reason": reason,
    }


def _weight(metric: str, earlier: Change, later: Change) -> float:
    if metric in _ROOT_MEAN and later.weight is not None:
        return float(later.weight.square().sum())
    if metric in _ROOT_SUM or metric in _EVEN:
        return 1.0
    return float(earlier.update.norm() * later.update.norm())


def _detail(metric: str, earlier: Change, later: Change, seed: int) -> Sequence[float] | Tensor:
    """What a value is a summary of; empty for most."""
    kinds: Mapping[str, Callable[[], Tensor]] = {
        "update_norm": lambda: later.update.values,
        "principal_energy": lambda: _random_energies(later, seed),
        "rotation_in": lambda: _turned(later, "in"),
        "rotation_out": lambda: _turned(later, "out"),
        "update_overlap_in": lambda: overlap_grid(*(c.leading.right[:, :GRID] for c in (earlier, later))).flatten(),
        "update_overlap_out": lambda: overlap_grid(*(c.leading.left[:, :GRID] for c in (earlier, later))).flatten(),
        "principal_angle_min": lambda: torch.cat(
            [update_angles(earlier.leading, later.leading, side) for side in ("in", "out")]
        ),
    }
    return kinds[metric]().tolist() if metric in kinds else []


def _random_energies(change: Change, seed: int) -> Tensor:
    shape = change.update.shape
    generator = torch.Generator().manual_seed(seed)
    return rotated_energies(change.update.values, leading_directions(shape), shape[0], generator)


def _turned(change: Change, side: str) -> Tensor:
    assert change.before is not None
    assert change.after is not None
    return rotation(change.before, change.after, side)


def _pooled(metric: str, group: pd.DataFrame) -> dict[str, Any]:
    known = group[group["value"].notna()]
    values, weights = known["value"].to_numpy(float), known["weight"].to_numpy(float)
    pooled, null_value, null_sd = _pool(metric, values, weights, known)
    quartiles = np.quantile(values, [0.25, 0.75]).tolist() if len(values) else [nan, nan]
    reason = ""
    if isnan(pooled):
        reason = next(iter(group.loc[group["reason"] != "", "reason"]), "no module has a change to weigh it by")
    return {
        "value": pooled,
        "null_value": null_value,
        "null_sd": null_sd,
        "z": (pooled - null_value) / null_sd if null_sd > 0 else nan,
        "lower_quartile": quartiles[0],
        "upper_quartile": quartiles[1],
        "modules": len(known),
        "undefined": len(group) - len(known),
        "reason": reason,
    }


def _pool(metric: str, values: Any, weights: Any, known: pd.DataFrame) -> tuple[float, float, float]:
    """Value, null and deviation over modules; the deviation as if modules were independent."""
    if metric in _ROOT_SUM:
        return float(sqrt((values**2).sum())), nan, nan
    if not len(values) or not weights.sum() > 0:
        return nan, nan, nan
    shares = weights / weights.sum()
    if metric in _ROOT_MEAN:
        return float(sqrt((shares * values**2).sum())), nan, nan
    nulls, deviations = (known[column].to_numpy(float) for column in ("null_value", "null_sd"))
    return float(shares @ values), float(shares @ nulls), float(sqrt((shares**2 * deviations**2).sum()))
