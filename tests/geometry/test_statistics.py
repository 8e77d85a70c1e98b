from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.geometry import Directions, Moments, Undefined, effective_rank, eigenvalues
from tests.geometry.clouds import merged, moments, normal, power_law

WIDTH = 6


def assert_same(left: Moments, right: Moments, tolerance: float = 1e-12) -> None:
    assert left.count == right.count
    assert left.sequences == right.sequences
    torch.testing.assert_close(left.mean, right.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(left.covariance, right.covariance, rtol=tolerance, atol=tolerance)


def test_mean_covariance_and_trace_equal_numpy() -> None:
    rows = normal(50, WIDTH, seed=0) + 3
    sums = moments(rows, shift=torch.full((WIDTH,), 2.5))
    covariance = torch.from_numpy(np.cov(rows.numpy().T))
    torch.testing.assert_close(sums.mean, rows.mean(0), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(sums.covariance, covariance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sums.trace, covariance.trace(), rtol=1e-12, atol=0)


@given(cuts=st.lists(st.integers(0, 40), max_size=6), order=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_any_split_and_order_of_shards_gives_the_sums_of_the_whole(cuts: list[int], order) -> None:
    rows = normal(40, WIDTH, seed=1)
    edges = [0, *sorted(cuts), 40]
    shards = [moments(rows[a:b]) for a, b in itertools.pairwise(edges)]
    order.shuffle(shards)
    assert_same(merged(shards), moments(rows))


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None)
def test_shards_about_different_shifts_merge_exactly(offsets: list[float]) -> None:
    rows = normal(60, WIDTH, seed=2)
    shards = [
        moments(part, shift=torch.full((WIDTH,), offset)) for part, offset in zip(rows.chunk(3), offsets, strict=True)
    ]
    assert_same(merged(shards), moments(rows), tolerance=1e-11)  # |shift|^2 is up to 2500 times the variance


def test_shifted_sums_equal_sums_taken_about_that_shift() -> None:
    rows, shift = normal(30, WIDTH, seed=3), torch.arange(WIDTH, dtype=torch.float32)
    moved, direct = moments(rows).shifted(shift), moments(rows, shift=shift)
    torch.testing.assert_close(moved.shift, direct.shift, rtol=0, atol=0)
    torch.testing.assert_close(moved.total, direct.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moved.second, direct.second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 4.0])
def test_without_a_block_is_the_sum_of_the_others(offset: float) -> None:
    first, second = normal(20, WIDTH, seed=4), normal(30, WIDTH, seed=5)
    block = moments(second, shift=torch.full((WIDTH,), offset))
    whole = moments(torch.cat([first, second]))
    assert_same(whole.without(block), moments(first))


def test_rows_and_sequences_are_counted_and_no_rows_change_nothing() -> None:
    sums = Moments.zeros(torch.zeros(WIDTH))
    sums.update(normal(5, WIDTH, seed=6), sequences=2)
    before = sums.second.clone()
    sums.update(torch.zeros(0, WIDTH), sequences=1)
    assert (sums.count, sums.sequences) == (5, 3)
    assert torch.equal(sums.second, before)


def test_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\) do not fit width 6"):
        Moments.zeros(torch.zeros(WIDTH)).update(torch.zeros(4, 5))


def test_too_few_rows_are_undefined_with_the_reason() -> None:
    sums = Moments.zeros(torch.zeros(WIDTH))
    with pytest.raises(Undefined, match="no rows"):
        _ = sums.mean
    sums.update(torch.ones(1, WIDTH))
    with pytest.raises(Undefined, match="needs two rows, there are 1"):
        _ = sums.covariance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constant_rows_have_exactly_zero_covariance(dtype: torch.dtype) -> None:
    rows = (normal(1, 64, seed=7) * 300).to(dtype).expand(200, 64)
    sums = Moments.zeros(rows.mean(0))
    for batch in rows.split(64):
        sums.update(batch)
    assert not sums.covariance.any()


def test_a_shift_near_the_mean_keeps_the_digits_of_float32_states() -> None:
    rows = normal(2000, 64, seed=8) * power_law(64, 1.0).sqrt() + 3000
    rows = rows.to(torch.float32)
    exact = effective_rank(eigenvalues(moments(rows.double()).covariance))
    sums = Moments.zeros(rows[:100].mean(0))
    for batch in rows.split(100):
        sums.update(batch)
    torch.testing.assert_close(effective_rank(eigenvalues(sums.covariance)), exact, rtol=5e-6, atol=0)


def test_bfloat16_states_are_read_without_further_rounding() -> None:
    rows = normal(100, WIDTH, seed=9).to(torch.bfloat16)
    assert_same(moments(rows), moments(rows.double()), tolerance=1e-6)


def test_autocast_and_reduced_product_modes_around_the_call_change_nothing() -> None:
    rows = normal(100, 64, seed=10).to(torch.float32)
    plain = moments(rows)
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            inside = moments(rows)
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before
    assert torch.equal(plain.second, inside.second)


def test_gradients_are_not_recorded() -> None:
    rows = normal(4, WIDTH, seed=11).requires_grad_()
    assert not moments(rows).second.requires_grad


def test_directions_ignore_row_scale_and_merge_and_subtract() -> None:
    rows = normal(30, WIDTH, seed=12)
    whole, first, second = (Directions.zeros(WIDTH) for _ in range(3))
    whole.update(rows * normal(30, 1, seed=13).abs())
    first.update(rows[:12])
    second.update(rows[12:])
    torch.testing.assert_close(whole.total, (rows / rows.norm(dim=1, keepdim=True)).sum(0))
    assert first.merge(second).count == whole.count == 30
    torch.testing.assert_close(first.merge(second).total, whole.total)
    torch.testing.assert_close(whole.without(second).total, first.total)
    assert whole.without(second).count == 12
