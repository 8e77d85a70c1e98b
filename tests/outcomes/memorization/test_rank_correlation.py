"""Rank correlations against SciPy and against two other ways to a partial correlation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from limberlm.geometry.undefined import Undefined
from limberlm.outcomes.memorization.rank_correlation import partial_spearman, spearman
from tests.outcomes.memorization.partial_correlation import by_precision, recursive


def samples(seed: int, columns: int, n: int = 40, ties: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(columns, columns)) @ rng.normal(size=(columns, n))
    return np.round(values) if ties else values


@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_rho_is_scipys(seed: int, ties: bool) -> None:
    x, y = samples(seed, 2, ties=ties)
    assume(np.ptp(x) and np.ptp(y))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(seed=st.integers(0, 10**6), ties=st.booleans())
def test_partial_rho_agrees_with_the_recursion_and_the_precision_matrix(seed: int, ties: bool) -> None:
    x, y, z, w = samples(seed, 4, ties=ties)
    assume(all(np.ptp(column) for column in (x, y, z, w)))
    assume(np.linalg.cond(np.corrcoef([stats.rankdata(c) for c in (x, y, z, w)])) < 1e4)
    assert partial_spearman(x, y, (z,)) == pytest.approx(recursive(x, y, z), abs=1e-9)
    assert partial_spearman(x, y, (z, w)) == pytest.approx(by_precision(np.array([x, y, z, w])), abs=1e-9)


@given(seed=st.integers(0, 10**6))
def test_only_the_order_matters(seed: int) -> None:
    x, y, z = samples(seed, 3, ties=False)
    assert partial_spearman(np.exp(x), y**3, (-z,)) == pytest.approx(partial_spearman(x, y, (z,)), abs=1e-9)
    assert spearman(-x, y) == pytest.approx(-spearman(x, y), abs=1e-12)


def test_a_constant_covariate_and_a_repeated_one_change_nothing() -> None:
    x, y, z = samples(3, 3)
    assert partial_spearman(x, y, (np.ones(40),)) == pytest.approx(spearman(x, y), abs=1e-12)
    assert partial_spearman(x, y, (z, z)) == pytest.approx(partial_spearman(x, y, (z,)), abs=1e-9)


@pytest.mark.parametrize(
    ("x", "given_", "message"),
    [
        ([1.0, 2, 3, 4], (), None),
        ([5.0, 5, 5, 5], (), "the model's log-probability is the same for every example"),
        ([1.0, 2, math.nan, 4], (), "not a finite number"),
        ([1.0, 2, 3, 4], ([10.0, 20, 30, 40],), "determined by what is held fixed"),
        ([1.0, 2], (), "2 examples: too few"),
    ],
)
def test_what_the_data_do_not_determine_is_undefined(x: list[float], given_: tuple, message: str | None) -> None:
    y = [2.0, 1, 4, 3][: len(x)]
    if message is None:
        assert partial_spearman(x, y, given_) == pytest.approx(0.6)
        return
    with pytest.raises(Undefined, match=message):
        partial_spearman(x, y, given_)
