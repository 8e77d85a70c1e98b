"""Censored times against closed forms, statsmodels and all arrangements."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.plasticity import censored_share, kaplan_meier, log_rank, restricted_mean

RUNS = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=8)


def split(runs: list[tuple[int, bool]]) -> tuple[list[float], list[bool]]:
    return [float(time) for time, _ in runs], [flag for _, flag in runs]


def test_two_events_and_one_run_that_never_gets_there() -> None:
    times, censored = [10, 20, 50], [False, False, True]
    assert restricted_mean(times, censored, cap=50) == pytest.approx(80 / 3)  # 26.67
    assert censored_share(censored) == pytest.approx(1 / 3)
    curve = kaplan_meier(times, censored)
    assert 50 not in curve.times
    assert curve.times.tolist() == [10, 20]


@settings(deadline=None)
@given(RUNS, st.integers(1, 12))
def test_the_restricted_mean_is_the_area_under_the_survival_curve(runs: list[tuple[int, bool]], cap: int) -> None:
    times = [float(min(time, cap)) for time, _ in runs]
    censored = [time > cap for time, _ in runs]  # all at one cap
    curve = kaplan_meier(times, censored)
    edges, heights = [0.0, *curve.times, cap], [1.0, *curve.survival]
    area = sum(height * (right - left) for left, right, height in zip(edges, edges[1:], heights, strict=False))
    assert restricted_mean(times, censored, cap) == pytest.approx(area, abs=1e-9)


def test_a_run_that_was_given_up_before_the_cap_has_no_plain_mean() -> None:
    with pytest.raises(ValueError, match="share one cap"):
        restricted_mean([10, 20, 30], [False, False, True], cap=50)


@settings(deadline=None)
@given(RUNS)
def test_the_curve_is_that_of_statsmodels(runs: list[tuple[int, bool]]) -> None:
    times, censored = split(runs)
    assume(not all(censored))
    theirs, ours = SurvfuncRight(np.array(times), 1 - np.array(censored, dtype=int)), kaplan_meier(times, censored)
    assert ours.times.tolist() == list(theirs.surv_times)
    assert ours.survival == pytest.approx(theirs.surv_prob, abs=1e-12)
    assert ours.at_risk.tolist() == list(theirs.n_risk)
    assert ours.events.tolist() == list(theirs.n_events)
    left = ours.survival > 1e-12
    assert ours.std_error[left] == pytest.approx(theirs.surv_prob_se[left], abs=1e-12)
    assert np.isnan(ours.std_error[~left]).all()


@settings(deadline=None)
@given(RUNS, RUNS)
def test_the_log_rank_test_is_that_of_statsmodels(one: list[tuple[int, bool]], other: list[tuple[int, bool]]) -> None:
    (a, ca), (b, cb) = split(one), split(other)
    try:
        found = log_rank(a, ca, b, cb)
    except Undefined:
        assume(False)
    arm = np.array([0] * len(a) + [1] * len(b))
    statistic, p = survdiff(np.array(a + b), 1 - np.array(ca + cb, dtype=int), arm)
    assert found.chi2 == pytest.approx(statistic, rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(p, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=4, max_size=7), st.integers(1, 3))
def test_the_exact_p_is_the_share_of_arrangements_as_far_apart(runs: list[tuple[int, bool]], first: int) -> None:
    times, censored = split(runs)

    def difference(members: tuple[int, ...]) -> float:
        """Observed minus expected events of an arm, time by time."""
        total = 0.0
        for moment in sorted({t for t, c in runs if not c}):
            risk = [i for i, (t, _) in enumerate(runs) if t >= moment]
            died = [i for i in risk if runs[i][0] == moment and not runs[i][1]]
            total += len(set(died) & set(members)) - len(died) * len(set(risk) & set(members)) / len(risk)
        return abs(total)

    own = difference(tuple(range(first)))
    every = [difference(members) for members in combinations(range(len(runs)), first)]
    try:
        found = log_rank(times[:first], censored[:first], times[first:], censored[first:])
    except Undefined:
        assert own == pytest.approx(0, abs=1e-12)
        return
    assert found.p_exact == pytest.approx(np.mean([value >= own - 1e-9 for value in every]))


def test_three_runs_against_three_cannot_be_significant_though_the_chi_square_says_so() -> None:
    found = log_rank([10, 20, 30], [False] * 3, [50, 50, 50], [True] * 3)
    assert found.p_value < 0.05
    assert found.p_exact == pytest.approx(2 / 20)


def test_many_runs_have_no_exact_p() -> None:
    times = np.arange(1.0, 13.0).tolist()
    assert log_rank(times, [False] * 12, [t + 0.5 for t in times], [False] * 12).p_exact is None


@pytest.mark.parametrize(("times", "censored"), [([50.0], [True]), ([10.0], [False])])
def test_without_an_order_there_is_no_test(times: list[float], censored: list[bool]) -> None:
    with pytest.raises(Undefined):
        log_rank(times, censored, times, censored)


@pytest.mark.parametrize("times", [[], [1.0, 2.0], [float("inf")]])
def test_malformed_times_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="one finite time and one flag"):
        kaplan_meier(times, [False])
