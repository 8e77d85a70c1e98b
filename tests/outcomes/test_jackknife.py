"""Jackknife items make any statistic an outcome row: its value, its jackknife error, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.geometry import jackknife
from limberlm.outcomes.jackknife import jackknife_items
from limberlm.outcomes.table import outcome_row

NUMBERS = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=30)


def left_out(numbers: np.ndarray, statistic) -> list[float]:
    return [float(statistic(np.delete(numbers, i))) for i in range(len(numbers))]


@given(NUMBERS)
def test_of_a_mean_the_items_are_the_numbers(numbers: list[float]) -> None:
    values = np.array(numbers)
    assert jackknife_items(float(values.mean()), left_out(values, np.mean)) == pytest.approx(numbers, abs=1e-9)


@given(st.lists(st.floats(0.1, 50), min_size=8, max_size=30))
def test_a_row_of_them_has_the_value_and_the_jackknife_error(numbers: list[float]) -> None:
    values = np.array(numbers)
    value, without = float(np.log(values).sum()), left_out(values, lambda x: np.log(x).sum())
    row = outcome_row("o", "t", jackknife_items(value, without))
    oracle = jackknife(value, without, centre="value")
    assert row["value"] == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert row["std_error"] == pytest.approx(oracle.std_error, rel=1e-6, abs=1e-9)
    assert (row["low"], row["high"]) == (pytest.approx(oracle.low, abs=1e-6), pytest.approx(oracle.high, abs=1e-6))


@given(st.integers(0, 1000))
def test_differences_of_items_are_the_items_of_the_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, 12)) ** 2
    parts = [jackknife_items(float(np.median(x)), left_out(x, np.median)) for x in (one, other)]
    both = [a - b for a, b in zip(left_out(other, np.median), left_out(one, np.median), strict=True)]
    change = jackknife_items(float(np.median(other) - np.median(one)), both)
    assert np.subtract(parts[1], parts[0]) == pytest.approx(change, abs=1e-12)


def test_one_part_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"there is 1$"):
        jackknife_items(1.0, [1.0])
