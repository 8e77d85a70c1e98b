"""Intervals of paired differences against references, and what the power formulas promise."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from limberlm.analysis.gate.paired import Paired
from limberlm.analysis.gate.power import detectable, needed, pass_probability
from limberlm.geometry import paired_difference, pseudo_values
from limberlm.outcomes.table import outcome_row


def test_blocks_have_students_interval() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 16)
    found = Paired("blocks", tuple(values)).interval(0.99, 0)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.99)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=1e-12)
    assert found.std_error == pytest.approx(stats.sem(values))


@pytest.mark.parametrize("scale", ["log", "linear"])
@pytest.mark.parametrize("centre", ["corrected", "value"])
def test_blocks_are_those_of_the_paired_difference(scale: str, centre: str) -> None:
    rng = np.random.default_rng(1)
    a, b = 5 + rng.normal(0, 0.1, (2, 16))
    stored = [np.log(x) if scale == "log" else x for x in (a, b)]
    known = paired_difference(5.0, stored[0], 5.2, stored[1], scale=scale, centre=centre)
    values = pseudo_values(5.0, stored[0], 5.2, stored[1], scale=scale, centre=centre)
    found = Paired("blocks", tuple(values)).interval(0.95, 0)
    shown = np.exp if scale == "log" else float
    assert [shown(x) for x in (found.change, found.low, found.high)] == pytest.approx(
        [known.corrected, known.low, known.high], rel=1e-12
    )
    assert found.std_error == pytest.approx(known.std_error, rel=1e-9)


def test_counts_have_the_interval_of_outcomes() -> None:
    values = [1.0] * 5 + [-1.0] * 11 + [0.0] * 48
    found, row = Paired("counts", tuple(values)).interval(0.95, 0), outcome_row("x", "y", values, kind="paired")
    assert (found.change, found.low, found.high) == pytest.approx((row["value"], row["low"], row["high"]))
    assert found.std_error == sqrt(16 / 64 / 64)


def test_counts_keep_an_interval_where_no_answer_changed() -> None:
    found = Paired("counts", (0.0,) * 50).interval(0.95, 0)
    assert found.low < 0 < found.high
    assert found.std_error == 0


def test_the_bootstrap_is_students_interval_for_normal_scores() -> None:
    values = np.random.default_rng(2).normal(0.1, 1, 200)
    found = Paired("items", tuple(values)).interval(0.95, 0)
    reference = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)


def test_the_bootstrap_leans_with_skewed_scores_and_depends_on_its_seed_alone() -> None:
    values = tuple(np.random.default_rng(3).exponential(1, 60))
    found = Paired("items", values).interval(0.95, 0)
    assert found.high - found.change > 1.15 * (found.change - found.low)
    assert found == Paired("items", values).interval(0.95, 0)
    assert found != Paired("items", values).interval(0.95, 1)


def test_the_bootstrap_holds_the_mean_of_skewed_scores_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(4), 0
    for draw in range(150):
        found = Paired("items", tuple(rng.exponential(1, 40))).interval(0.95, draw)
        held += found.low <= 1 <= found.high
    assert 0.89 <= held / 150 <= 0.99  # 2.6 standard errors


def test_one_outlier_among_equal_scores_does_not_break_the_bootstrap() -> None:
    found = Paired("items", (0.0,) * 19 + (1.0,)).interval(0.95, 0)
    assert found.low <= 0.05 <= found.high
    assert np.isfinite([found.low, found.high]).all() or found.high == inf


def test_the_power_of_the_oracle() -> None:
    assert detectable(1, 15) == pytest.approx(3.00, abs=0.005)
    assert detectable(1, 7) == pytest.approx(3.26, abs=0.01)
    assert detectable(1, inf) == pytest.approx(2.80, abs=0.005)
    assert detectable(sqrt(0.2 / 300), inf) == pytest.approx(0.072, abs=0.0005)
    for ratio in (1.5, 2.0, 2.8, 3.24, 4.0):
        assert pass_probability(ratio, 1, inf) == pytest.approx(stats.norm.cdf(ratio - 1.96), abs=1e-4)
        two = max(0, 2 * stats.norm.cdf(ratio - 1.96) - 1)
        assert pass_probability(ratio, 1, inf, both=True) == pytest.approx(two, abs=2e-4)
    assert sqrt(needed(1, 1, inf)) == pytest.approx(2.80, abs=0.005)
    assert sqrt(needed(1, 1, inf, both=True)) == pytest.approx(3.24, abs=0.005)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("ratio", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_how_often_nothing_passes(ratio: float, confidence: float, both: bool) -> None:
    """Blocks of normal numbers, and the exact share of them whose interval lies inside the margin."""
    values = np.random.default_rng(5).normal(0, 1, (40_000, 16))
    half = stats.t.ppf(0.5 + confidence / 2, 15) * values.std(axis=1, ddof=1) / 4
    margin, mean = ratio / 4, values.mean(axis=1)
    inside = (mean + half < margin) & ((mean - half > -margin) | (not both))
    assert pass_probability(margin, 0.25, 15, confidence, both=both) == pytest.approx(inside.mean(), abs=0.01)


@pytest.mark.parametrize("degrees", [7, 15, 200, inf])
def test_a_change_as_large_as_the_detectable_one_is_found_four_times_in_five(degrees: float) -> None:
    rng, limit = np.random.default_rng(6), stats.t.ppf(0.975, min(degrees, 1e9))
    error = np.sqrt(rng.chisquare(min(degrees, 1e7), 40_000) / min(degrees, 1e7))
    found = (rng.normal(detectable(1, degrees), 1, 40_000) - limit * error > 0).mean()
    assert found == pytest.approx(0.8, abs=0.01)
