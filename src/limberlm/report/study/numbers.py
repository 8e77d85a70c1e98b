"""The numbers that a page draws and lists itself: whole tables as packed arrays, each array in the page once.

A study of many chains has so many numbers that as text they would be most of the file, and finished figures several
times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from limberlm.observe.names import BAND, FINAL_NORM
from limberlm.report import words
from limberlm.report.packing import Numbers
from limberlm.report.study.data import ReportData, Run

Json = dict[str, Any]

GEOMETRY = ("value", "low", "high", "null_value", "n_tokens", "n_sequences")
COMPARISON = ("a", "b", "corrected", "half", "p_value", "p_adjusted")
BAND_FIRST = -1.0  # sites sort by depth, the band before all of them


def geometry_numbers(data: ReportData, runs: Sequence[Run], pool: Numbers) -> Json:
    """The geometry of every node of the runs.

    `cells` are (metric, convention, site, depth); `nodes` have an array per column, with a number per cell. A node that
    lacks some cells has, under `cells`, an array of the places of those it has.
    """
    frame = _of_runs(data.geometry, runs).drop_duplicates(["node", "metric", "convention", "site"])
    names = _cells(frame, ["metric", "convention", "site", "depth"])
    nodes = {str(node): _columns(own, names, GEOMETRY, pool) for node, own in frame.groupby("node", sort=False)}
    return {"cells": [[m, c, s, float(d)] for m, c, s, d in names], "nodes": nodes}


def comparison_numbers(data: ReportData, runs: Sequence[Run], pool: Numbers) -> Json:
    """As `geometry_numbers`, for every node and what it is compared with.

    Intervals are kept as half their widths, on the logarithmic scale where a change is a ratio: they are centred on
    the corrected change. A cell has the sort key of its site, what no change is, and whether it is of the headline
    family.
    """
    keys = ["node", "against", "metric", "convention", "site"]
    frame = _of_runs(data.comparisons, runs).drop_duplicates(keys)
    frame = frame.assign(half=_half_widths(frame))
    names = _cells(frame, ["metric", "convention", "site", "depth", "headline"])
    nodes: Json = {}
    for (node, against), own in frame.groupby(["node", "against"], sort=False):
        nodes.setdefault(str(node), {})[str(against)] = _columns(own, names, COMPARISON, pool)
    cells = [
        [m, c, s, BAND_FIRST if s == BAND else float(d) + (s == FINAL_NORM), words.no_change(m), bool(h)]
        for m, c, s, d, h in names
    ]
    return {"cells": cells, "nodes": nodes}


def _half_widths(frame: pd.DataFrame) -> np.ndarray:
    ratio = frame["metric"].map({name: words.is_ratio(name) for name in frame["metric"].unique()}).to_numpy(bool)
    low, high = (frame[name].to_numpy(np.float64) for name in ("low", "high"))
    with np.errstate(divide="ignore", invalid="ignore"):
        widths: np.ndarray = np.where(ratio, np.log(high / low), high - low)
    return widths / 2


def _of_runs(frame: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    return frame[frame["node"].isin({stage.node for run in runs for stage in run.stages})]


def _cells(frame: pd.DataFrame, columns: list[str]) -> list[tuple[Any, ...]]:
    """Every cell once, in order of appearance; a cell is known by metric, convention and site."""
    first = frame.drop_duplicates(["metric", "convention", "site"])
    return list(zip(*(first[column] for column in columns), strict=True))


def _columns(own: pd.DataFrame, names: Sequence[tuple[Any, ...]], columns: Sequence[str], pool: Numbers) -> Json:
    places = {name[:3]: place for place, name in enumerate(names)}
    order = [places[key] for key in zip(own["metric"], own["convention"], own["site"], strict=True)]
    sorted_rows = own.iloc[np.argsort(order, kind="stable")]
    found: Json = {column: pool.add(sorted_rows[column].to_numpy()) for column in columns}
    if len(order) < len(names):
        found["cells"] = pool.add(sorted(order))
    return found
