"""The full table of paired comparisons, as plain rows that the page sorts and filters."""

from __future__ import annotations

import math
from typing import Any

from limberlm.observe.sites import BAND, FINAL_NORM
from limberlm.report import words
from limberlm.report.data import ReportData, Run

HEADS = (
    *("Stage", "Against", "Metric", "Convention", "Site"),
    *("Before", "After", "Change", "95 % interval", "p", "p adjusted"),
)
BAND_FIRST = -1.0  # sites sort by depth, the band before all of them


def comparison_table(data: ReportData, runs: list[Run]) -> dict[str, Any]:
    """Column heads, the rows of each node (once, however many runs share it), and the stages of each run.

    A row is a list of [text, sort key] pairs, the stage left out; a number's sort key is its exact value. A
    ratio sorts by its relative change, a difference by its size. A stage is (label, index, node).
    """
    keys = [key for key in ("node", "against", "site", "metric", "convention", "domain") if key in data.comparisons]
    nodes: dict[str, list[list[list[Any]]]] = {}
    for row in data.comparisons.drop_duplicates(keys).to_dict("records"):
        nodes.setdefault(str(row["node"]), []).append(_row(row))
    stages = [[(stage.label, stage.index, stage.node) for stage in run.stages if stage.node in nodes] for run in runs]
    return {"heads": list(HEADS), "nodes": nodes, "runs": stages}


def _row(row: dict[Any, Any]) -> list[list[Any]]:
    metric, site = str(row["metric"]), str(row["site"])
    base = words.no_change(metric)
    family = "Holm" if row["headline"] else "BH"
    p_value, p_adjusted = _p(row["p_value"]), _p(row["p_adjusted"])
    return [
        [str(row["against"])] * 2,
        [words.metric_title(metric)] * 2,
        [str(row["convention"])] * 2,
        [words.site_title(site), BAND_FIRST if site == BAND else row["depth"] + (site == FINAL_NORM)],
        [words.number(row["a"]), row["a"]],
        [words.number(row["b"]), row["b"]],
        [words.change(metric, row["corrected"]), row["corrected"] - base],
        [words.change_interval(metric, row["low"], row["high"]) or "–", row["low"] - base],
        [p_value, row["p_value"]],
        [f"{p_adjusted} {family}" if math.isfinite(row["p_adjusted"]) else "–", row["p_adjusted"]],
    ]


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "<\u00a00.0001" if value < 1e-4 else f"{value:.4f}"
