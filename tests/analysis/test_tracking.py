"""Correlations along checkpoints, against other packages, closed forms and every shift by hand."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, spearmanr

from limberlm.analysis import naive_p, track
from limberlm.errors import UserError
from tests.analysis.curves import Floats

# Table 9 of 2509.23024: correlation of SciQ accuracy with alpha and with RankMe, and the p-value printed beside it
TABLE_9 = [
    ("Pythia-1B", 20, 0.810, 1.50e-5),
    ("Pythia-1B", 20, -0.759, 1.04e-4),
    ("Pythia-1.4B", 20, 0.668, 1.29e-3),
    ("Pythia-1.4B", 20, -0.713, 4.18e-4),
    ("Pythia-2.8B", 20, 0.694, 6.88e-4),
    ("Pythia-2.8B", 20, -0.635, 2.63e-3),
    ("Pythia-6.9B", 20, 0.837, 4.20e-6),
    ("Pythia-6.9B", 20, -0.885, 2.19e-7),
    ("Pythia-12B", 20, 0.836, 4.42e-6),
    ("Pythia-12B", 20, -0.839, 3.79e-6),
    ("OLMo-2-1B", 76, 0.540, 4.920e-7),
    ("OLMo-2-1B", 76, -0.616, 3.201e-9),
]

pairs = st.integers(5, 12).flatmap(lambda n: arrays(float, (2, n), elements=st.integers(-20, 20).map(float)))


@pytest.mark.parametrize(("model", "n", "r", "p"), TABLE_9)
def test_published_p_values_are_the_naive_ones_of_rounded_correlations(model: str, n: int, r: float, p: float) -> None:
    rounding = 0.0005  # r is printed with three digits
    assert naive_p(abs(r) + rounding, n) <= p * 1.005
    assert p * 0.995 <= naive_p(abs(r) - rounding, n)


def test_no_other_number_of_checkpoints_gives_the_published_p_values() -> None:
    rows = [(abs(r), p) for _, n, r, p in TABLE_9 if n == 20]

    def fits(n: int) -> bool:
        return all(naive_p(r + 0.0005, n) <= p * 1.005 and p * 0.995 <= naive_p(r - 0.0005, n) for r, p in rows)

    assert [n for n in range(8, 120) if fits(n)] == [20]


def grid(n: int) -> Floats:
    return 2.0 ** np.arange(n)


@given(pairs)
@settings(max_examples=80, deadline=None)
def test_plain_correlations_are_those_of_other_packages(series: Floats) -> None:
    a, b = series
    found = track(grid(len(a)), a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan([found.pearson, found.spearman, found.naive_p, found.shift_p]).all()
        return
    expected, ranked = pearsonr(a, b), spearmanr(a, b)
    assert found.pearson == pytest.approx(expected.statistic, abs=1e-9)
    assert found.spearman == pytest.approx(ranked.statistic, abs=1e-9)
    if abs(found.pearson) < 1 - 1e-9:
        assert found.naive_p == pytest.approx(expected.pvalue, rel=1e-6)
    if abs(found.spearman) < 1 - 1e-9:
        assert found.naive_p_spearman == pytest.approx(ranked.pvalue, rel=1e-6)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_differences_and_shifts_are_those_by_hand(series: Floats) -> None:
    a, b = series
    n, found = len(a), track(grid(len(a)), a, b)
    steps_a, steps_b = ([after - before for before, after in pairwise(one)] for one in (a, b))
    if np.ptp(steps_a) > 0 and np.ptp(steps_b) > 0:
        assert found.differences == pytest.approx(np.corrcoef(steps_a, steps_b)[0, 1], abs=1e-9)
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        shifted = [abs(np.corrcoef(a, [b[(i + s) % n] for i in range(n)])[0, 1]) for s in range(n)]
        assert found.shift_p == sum(value >= shifted[0] - 1e-9 for value in shifted) / n


@given(pairs, st.integers(1, 5), st.integers(-9, 9))
@settings(max_examples=40, deadline=None)
def test_scale_and_level_change_nothing_and_sign_only_the_sign(series: Floats, scale: int, level: int) -> None:
    a, b = series
    steps = grid(len(a))
    found, moved, turned = track(steps, a, b), track(steps, scale * a + level, b), track(steps, -a, b)
    for name in ("pearson", "spearman", "differences", "partial"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name), abs=1e-7, nan_ok=True)
        assert getattr(turned, name) == pytest.approx(-getattr(found, name), abs=1e-7, nan_ok=True)
    assert turned.shift_p == pytest.approx(found.shift_p, nan_ok=True)


def test_the_partial_correlation_has_its_closed_form() -> None:
    rng = np.random.default_rng(0)
    steps = np.cumsum(rng.integers(1, 9, 25))
    time = np.log(steps)
    a, b = 2 * time + rng.normal(size=25), -time + rng.normal(size=25)
    r, r_a, r_b = (np.corrcoef(*two)[0, 1] for two in ((a, b), (a, time), (b, time)))
    expected = (r - r_a * r_b) / np.sqrt((1 - r_a**2) * (1 - r_b**2))
    assert track(steps, a, b).partial == pytest.approx(expected, abs=1e-9)


def test_what_only_trends_together_is_seen_through() -> None:
    rng = np.random.default_rng(1)
    steps = np.geomspace(1, 4000, 60)
    a, b = (np.log(steps) + 0.3 * rng.normal(size=60) for _ in range(2))
    found = track(steps, a, b)
    assert found.pearson > 0.9
    assert found.naive_p < 1e-20
    assert abs(found.partial) < 0.3
    assert abs(found.differences) < 0.3


def test_step_zero_stays_in() -> None:
    steps = np.array([0, 2, 4, 8, 16, 32])
    a, b = np.array([1.0, 3, 2, 5, 4, 6]), np.array([2.0, 1, 4, 3, 6, 5])
    time = np.log(steps + 2)
    left = [one - np.polyval(np.polyfit(time, one, 1), time) for one in (a, b)]
    assert track(steps, a, b).partial == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-9)


def test_a_series_that_is_its_own_time_has_no_partial_correlation() -> None:
    steps = np.geomspace(1, 100, 8)
    found = track(steps, np.log(steps), [1, 3, 2, 5, 4, 6, 8, 7])
    assert np.isnan(found.partial)
    assert found.pearson > 0.8
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (record["partial"], record["n"]) == (None, 8)


def test_wandering_series_keep_the_level_of_the_shift_test_better_than_of_the_naive_one() -> None:
    rng = np.random.default_rng(2)
    naive, shifted = [], []
    for _ in range(150):
        a, b = (np.convolve(rng.normal(size=48), np.ones(8), "valid") for _ in range(2))
        found = track(np.arange(1, 42), a, b)
        naive.append(found.naive_p <= 0.05)
        shifted.append(found.shift_p <= 0.05)
    assert np.mean(naive) > 0.3
    assert np.mean(shifted) < 0.15


@pytest.mark.parametrize(
    ("steps", "a", "b", "words"),
    [
        ([1, 2, 3], [1, 2, 3], [1, 2, 3], "needs 4"),
        ([1, 2, 3, 3], [1, 2, 3, 4], [1, 2, 3, 4], "3 comes after 3"),
        ([1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 4], "the first series: shape"),
        ([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, float("nan")], "the second series: nan at step 4"),
    ],
)
def test_bad_input_is_refused_in_one_line(steps: list, a: list, b: list, words: str) -> None:
    with pytest.raises(UserError, match=words):
        track(steps, a, b)
