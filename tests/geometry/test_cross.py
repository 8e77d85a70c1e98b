from __future__ import annotations

import itertools
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry.cross import CrossMoments, CrossPart
from tests.geometry.clouds import moments, normal

WIDTHS = 5, 3


def rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = normal(n, WIDTHS[0], seed=seed) + 1
    return x, x[:, : WIDTHS[1]].square() - 2


def sums(x: Tensor, y: Tensor, shift_x: float = 0.0, shift_y: float = 0.0) -> CrossMoments:
    both = CrossMoments.zeros(torch.full((x.shape[1],), shift_x), torch.full((y.shape[1],), shift_y))
    both.update(x, y)
    return both


def assert_same(left: CrossMoments, right: CrossMoments, tolerance: float = 1e-12) -> None:
    assert left.count == right.count
    for field in fields(CrossMoments):
        if field.name != "count":
            pair = getattr(left, field.name), getattr(right, field.name)
            scale = pair[1].abs().max().item()
            torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance * max(1.0, scale))


def test_every_sum_is_what_its_name_says() -> None:
    x, y = rows(20, seed=0)
    found = sums(x, y, 0.5, -1.5)
    x, y = x - 0.5, y + 1.5
    of_x, of_y = x.square().sum(1), y.square().sum(1)
    expected = {
        "total_x": x.sum(0),
        "total_y": y.sum(0),
        "product": torch.einsum("na,nb->ab", x, y),
        "squares_x": of_x.sum(),
        "squares_y": of_y.sum(),
        "weighted_x": torch.einsum("na,n->a", x, of_y),
        "weighted_y": torch.einsum("na,n->a", y, of_x),
        "both": (of_x * of_y).sum(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-12, atol=1e-12)


def test_of_states_with_themselves_the_product_is_their_second_moment() -> None:
    x, _ = rows(20, seed=1)
    twice, own = sums(x, x), moments(x)
    torch.testing.assert_close(twice.product, own.second, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(twice.total_y, own.total, rtol=0, atol=0)
    assert torch.equal(twice.weighted_x, twice.weighted_y)


@given(cuts=st.lists(st.integers(0, 40), max_size=6), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_any_split_and_order_of_shards_gives_the_sums_of_the_whole(cuts: list[int], order) -> None:
    x, y = rows(40, seed=2)
    shards = [sums(x[a:b], y[a:b]) for a, b in itertools.pairwise([0, *sorted(cuts), 40])]
    order.shuffle(shards)
    whole = shards[0]
    for shard in shards[1:]:
        whole = whole.merge(shard)
    assert_same(whole, sums(x, y))


@given(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32))
@settings(max_examples=40, deadline=None)
def test_shifted_sums_equal_sums_taken_about_those_shifts(shift_x: float, shift_y: float) -> None:
    x, y = rows(30, seed=3)
    moved = sums(x, y, shift_x, shift_y).shifted(torch.full((5,), 1.0), torch.full((3,), -1.0))
    # the largest sum, of fourth order about a shift 50 off, is 1e7 times the one about the mean
    assert_same(moved, sums(x, y, 1.0, -1.0), tolerance=1e-8)
    near = sums(x, y, 2.0, 0.5).shifted(torch.full((5,), 1.0), torch.full((3,), -1.0))
    assert_same(near, sums(x, y, 1.0, -1.0))


@pytest.mark.parametrize("offset", [0.0, 4.0])
def test_without_a_block_is_the_sum_of_the_others(offset: float) -> None:
    (x, y), (more_x, more_y) = rows(20, seed=4), rows(30, seed=5)
    whole = sums(torch.cat([x, more_x]), torch.cat([y, more_y]))
    assert_same(whole.without(sums(more_x, more_y, offset, -offset)), sums(x, y), tolerance=1e-11)


def test_a_part_without_a_block_is_the_part_of_the_others() -> None:
    (x, y), (more_x, more_y) = rows(20, seed=6), rows(30, seed=7)
    part, block, rest = (
        CrossPart(moments(left), moments(right), sums(left, right))
        for left, right in ((torch.cat([x, more_x]), torch.cat([y, more_y])), (more_x, more_y), (x, y))
    )
    without = part.without(block)
    assert_same(without.cross, rest.cross)
    torch.testing.assert_close(without.y.second, rest.y.second, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="50, 50 and 20 rows are not of the same rows"):
        CrossPart(part.x, part.y, rest.cross)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_states_are_read_without_further_rounding(dtype: torch.dtype) -> None:
    x, y = (side.to(dtype) for side in rows(100, seed=8))
    assert_same(sums(x, y), sums(x.double(), y.double()), tolerance=1e-6)
    assert_same(sums(x, y.double()), sums(x.double(), y.double()), tolerance=1e-6)


def test_autocast_and_reduced_product_modes_around_the_call_change_nothing() -> None:
    x, y = normal(100, 64, seed=9).float(), normal(100, 64, seed=10).float()
    plain = sums(x, y)
    switch = torch.backends.mkldnn.matmul
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", torch.bfloat16):
            inside = sums(x, y)
    finally:
        switch.fp32_precision = before
    assert torch.equal(plain.product, inside.product)
    assert torch.equal(plain.weighted_x, inside.weighted_x)


def test_no_rows_change_nothing_and_rows_that_do_not_fit_are_refused() -> None:
    x, y = rows(6, seed=11)
    found = sums(x.requires_grad_(), y)
    assert not found.product.requires_grad
    found.update(x[:0], y[:0])
    assert_same(found, sums(x, y), tolerance=0)
    for left, right in ((x, y[:3]), (x[:, :4], y), (x, y[0])):
        with pytest.raises(ValueError, match="do not fit widths"):
            found.update(left, right)
