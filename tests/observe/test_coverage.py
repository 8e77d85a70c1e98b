"""Do intervals hold the truth as often as they say? On states of a known law, read by the real pass."""

from __future__ import annotations

import re
from math import sqrt
from pathlib import Path

import pandas as pd
import pytest
import torch

from limberlm.geometry import CATALOG, effective_rank, participation_ratio, rankme
from limberlm.observe.metrics.summary import summarise
from tests.observe.calibration import HIGH, LOW, covered, usual, wide
from tests.observe.coverage_page import NOT_MEASURED, OUTSIDE, WITHOUT
from tests.observe.made_up import SHARES, Law
from tests.observe.synthetic_pass import DEPTH, LATE, USUAL, WIDE, Design, key, passes, repetitions, scaled, truth

COUNT = 500
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.md"


def in_band(table: pd.DataFrame) -> None:
    """Coverage of 92 to 97 %, give or take two standard errors of so many repetitions."""
    low, high = (end + sign * 2 * sqrt(end * (1 - end) / COUNT) for end, sign in ((LOW, -1), (HIGH, 1)))
    table = table[[where not in OUTSIDE for where in zip(table["convention"], table["metric"], strict=True)]]
    outside = table[~table["coverage"].between(low, high)]
    assert outside.empty, outside[["site", "convention", "metric", "coverage", "bias", "error"]].to_string()
    assert set(table["repetitions"]) == {COUNT}


# --- the harness


def test_the_pass_reads_what_the_law_says() -> None:
    """Without drift, and with texts of one length per domain, the covariance is known."""
    names = ("effective_rank", "rankme", "participation_ratio")
    law = Law(lengths=(30, 30.5), drift=0.0)
    kept = tuple(metric for metric in USUAL.metrics if metric.name in names)
    found = truth(Design(law, metrics=kept, reference=False), draws=1)
    tokens = torch.tensor([share * (29 + 2 * k) for k, share in enumerate(SHARES)], dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(law.covariance(tokens / tokens.sum()))
    for name, metric in zip(names, (effective_rank, rankme, participation_ratio), strict=True):
        assert found["final_norm", "raw", name] == pytest.approx(float(metric(eigenvalues).log()), abs=0.015)


def test_a_repetition_gives_every_metric_with_an_interval() -> None:
    measured = {cell.metric.name for design in (USUAL, DEPTH) for found in repetitions(design, 1) for cell in found[0]}
    promised = {name for name, metric in CATALOG.items() if metric.conventions and metric.has_interval}
    assert measured | set(LATE) | set(NOT_MEASURED) == promised
    assert promised.isdisjoint(WITHOUT)


def test_metrics_without_an_interval_have_a_value_and_say_why() -> None:
    metrics = tuple(CATALOG[name] for name in ("srank", "subspace_overlap_32", "principal_angle_max_32"))
    design = Design(metrics=metrics)
    with scaled(design):
        cells = [cell for observed in passes(design, design.sequences, 0) for cell in summarise(observed)]
    assert len(cells) == 3 + 2 + 2
    assert {key(cell)[2] for cell in cells} == {metric.name for metric in metrics}
    for cell in cells:
        assert cell.estimate.value > 0
        assert cell.reason.startswith("no interval: ")
        assert all(value != value for value in (cell.estimate.low, cell.estimate.high, *cell.estimate.replicates))


# --- the page


def test_the_page_lists_every_metric_that_is_read_on_a_probe() -> None:
    listed = re.findall(r"^\| `(\w[\w.]*)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = set(listed) | set(NOT_MEASURED)
    assert told == {name for name, metric in CATALOG.items() if metric.conventions}
    for name in NOT_MEASURED:
        assert f"`{name}`" in PAGE.read_text(encoding="utf-8")


def test_every_coverage_on_the_page_is_in_the_band_or_has_its_reason() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.split("## Late ranks")[0].splitlines() if line[:3] == "| `"]
    assert len(rows) > 70
    for name, _, _, _, coverage, *_, why in (row if len(row) == 9 else [*row, ""] for row in rows):
        assert LOW <= float(coverage.removesuffix(" %")) / 100 <= HIGH or why.strip("| "), name


# --- coverage


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    in_band(usual(COUNT, 8)[0])


@pytest.mark.slow
def test_also_through_depth_and_beside_massive_tokens() -> None:
    in_band(covered(DEPTH, COUNT, 32))


@pytest.mark.slow
def test_also_of_late_ranks_solved_exactly_or_by_gap_transfer() -> None:
    assert WIDE.sequences / WIDE.law.width > 5, "with fewer texts per dimension they do not"
    exact, transferred = wide(COUNT)
    in_band(exact)
    in_band(transferred)
    pairs = exact.merge(transferred, on="metric")
    assert (pairs["coverage_x"] - pairs["coverage_y"]).abs().max() < 0.03
