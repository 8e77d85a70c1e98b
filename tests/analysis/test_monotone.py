"""Fits by monotone stretches, against the min-max formula, another package and every possible division."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression

from limberlm.analysis.monotone import MonotoneFits, Stretch, fitted, stretch_costs, turning_places
from tests.analysis.curves import Floats

few_curves = arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.floats(-3, 3, width=16))


def rising_fit(y: Floats) -> Floats:
    """The min-max formula: max over starts up to i of min over ends from i on of the mean between them."""
    n = len(y)
    means = {(a, b): y[a : b + 1].mean() for a in range(n) for b in range(a, n)}
    return np.array([max(min(means[a, b] for b in range(i, n)) for a in range(i + 1)) for i in range(n)])


def cost_by_formula(y: Floats, rises: bool) -> float:
    signed = y if rises else -y
    return float(np.square(signed - rising_fit(signed)).sum())


def best_by_trying_all(y: Floats, count: int, min_size: int) -> tuple[float, set[tuple[bool, ...]]]:
    """Least cost over all divisions into `count` alternating stretches, and the directions that reach it."""
    n, costs = len(y), {}
    for cuts in combinations(range(1, n), count - 1):
        edges = [0, *cuts, n]
        parts = [y[a:b] for a, b in pairwise(edges)]
        if min(map(len, parts)) < min_size:
            continue
        for first in (True, False):
            ways = tuple(first == (i % 2 == 0) for i in range(count))
            fits = [isotonic_regression(part, increasing=way).x for part, way in zip(parts, ways, strict=True)]
            cost = sum(float(np.square(part - fit).sum()) for part, fit in zip(parts, fits, strict=True))
            costs[cost] = costs.get(cost, set()) | {ways}
    least = min(costs, default=np.inf)
    return least, {ways for cost, found in costs.items() if cost <= least + 1e-9 for ways in found}


@given(few_curves)
@settings(max_examples=60, deadline=None)
def test_the_cost_of_every_stretch_is_that_of_the_min_max_formula(curves: Floats) -> None:
    found = stretch_costs(curves)
    n = curves.shape[1]
    for number, y in enumerate(curves):
        for i in range(n):
            assert np.isinf(found[i, :i, :, number]).all()
            for j in range(i, n):
                expected = [cost_by_formula(y[i : j + 1], rises) for rises in (False, True)]
                assert found[i, j, :, number] == pytest.approx(expected, abs=1e-9)


def test_the_cost_of_long_stretches_is_that_of_another_package() -> None:
    rng = np.random.default_rng(0)
    curves = rng.normal(size=(4, 40)).cumsum(axis=1)
    found = stretch_costs(curves)
    for number, y in enumerate(curves):
        for i, j in [(0, 39), (3, 30), (17, 18), (20, 39)]:
            for rises in (0, 1):
                fit = isotonic_regression(y[i : j + 1], increasing=bool(rises)).x
                assert found[i, j, rises, number] == pytest.approx(np.square(y[i : j + 1] - fit).sum(), rel=1e-12)


@given(arrays(float, 9, elements=st.floats(-3, 3, width=16)), st.integers(1, 4), st.sampled_from([2, 3]))
@settings(max_examples=80, deadline=None)
def test_the_best_division_is_the_best_of_all(y: Floats, count: int, min_size: int) -> None:
    cost, ways = best_by_trying_all(y, count, min_size)
    fits = MonotoneFits(y[None], 4, min_size)
    assert fits.cost[count, 0] == pytest.approx(cost, abs=1e-9)
    if count * min_size > len(y):
        assert np.isinf(cost)
        return
    found = fits.stretches(count)
    assert tuple(stretch.rises for stretch in found) in ways
    assert [stretch.start for stretch in found] == [0, *(stretch.end + 1 for stretch in found[:-1])]
    assert found[-1].end == 8
    assert all(stretch.end - stretch.start + 1 >= min_size for stretch in found)
    assert np.square(y - fitted(y, found)).sum() == pytest.approx(cost, abs=1e-9)


@given(arrays(float, 10, elements=st.floats(-3, 3, width=16)), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_a_direction_that_is_asked_for_is_given_at_its_best(y: Floats, count: int) -> None:
    fits = MonotoneFits(y[None], count, 3)
    costs = []
    for rises in (True, False):
        found = fits.stretches(count, first_rises=rises)
        assert [stretch.rises for stretch in found] == [rises == (i % 2 == 0) for i in range(count)]
        costs.append(float(np.square(y - fitted(y, found)).sum()))
    assert min(costs) == pytest.approx(fits.cost[count, 0], abs=1e-9)


@given(arrays(float, (2, 9), elements=st.floats(-3, 3, width=16)))
@settings(max_examples=40, deadline=None)
def test_curves_are_fitted_apart_from_each_other(curves: Floats) -> None:
    together = MonotoneFits(curves, 3, 2)
    for number, y in enumerate(curves):
        alone = MonotoneFits(y[None], 3, 2)
        assert together.cost[:, number].tolist() == alone.cost[:, 0].tolist()
        assert together.stretches(3, number) == alone.stretches(3)


@given(arrays(float, 9, elements=st.integers(-50, 50).map(float)), st.integers(-9, 9), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_costs_ignore_the_level_and_follow_scale_sign_and_order(y: Floats, level: int, scale: int) -> None:
    cost = MonotoneFits(y[None], 4, 2).cost[:, 0]
    for changed in (scale * y + level, -scale * y, scale * y[::-1]):
        assert MonotoneFits(changed[None], 4, 2).cost[:, 0] == pytest.approx(scale**2 * cost, abs=1e-6)


def test_no_stretch_is_a_constant() -> None:
    y = np.array([1.0, 2.0, 6.0])
    fits = MonotoneFits(y[None], 1, 3)
    assert fits.cost[0, 0] == pytest.approx(14.0)
    assert fits.stretches(0) == ()
    assert fitted(y, ()).tolist() == [3.0, 3.0, 3.0]


def test_stretches_turn_at_the_more_extreme_point_of_a_boundary() -> None:
    peak = (Stretch(0, 2, True), Stretch(3, 5, False))
    trough = (Stretch(0, 2, False), Stretch(3, 5, True))
    assert turning_places(np.array([0.0, 1, 2, 3, 1, 0]), peak) == [0, 3, 5]
    assert turning_places(np.array([0.0, 1, 3, 2, 1, 0]), peak) == [0, 2, 5]
    assert turning_places(np.array([3.0, 2, 1, 0, 1, 2]), trough) == [0, 3, 5]
    assert turning_places(np.array([3.0, 1, 0, 1, 1, 2]), trough) == [0, 2, 5]
