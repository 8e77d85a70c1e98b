from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined
from limberlm.geometry.pairs import PairSums, mean_over_pairs, null_uniformity, uniformity, unit_pairs
from tests.geometry.clouds import normal, rotation

BLOCKS = 5
SEQUENCE = torch.arange(40) // 2
BLOCK = SEQUENCE % BLOCKS


def brute_force(kernel: Tensor, block: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
    sums, counts = torch.zeros(2, BLOCKS, BLOCKS, dtype=torch.float64)
    for i in range(len(kernel)):
        for j in range(len(kernel)):
            if sequence[i] != sequence[j]:
                sums[block[i], block[j]] += kernel[i, j]
                counts[block[i], block[j]] += 1
    return sums, counts


def alone(rows: Tensor) -> PairSums:
    """Every row a sequence of its own."""
    each = torch.arange(len(rows))
    return unit_pairs(rows, torch.zeros_like(each), each, blocks=1)


def test_pair_sums_equal_the_sum_over_every_pair() -> None:
    kernel = normal(40, 40, seed=0)
    pairs = PairSums.of_kernel(kernel, BLOCK, SEQUENCE, BLOCKS)
    sums, counts = brute_force(kernel, BLOCK, SEQUENCE)
    torch.testing.assert_close(pairs.sums, sums, rtol=1e-12, atol=1e-12)
    assert torch.equal(pairs.counts, counts)
    expected = kernel[SEQUENCE[:, None] != SEQUENCE].mean()
    torch.testing.assert_close(mean_over_pairs(pairs), expected, rtol=1e-12, atol=1e-12)


def test_uniformity_equals_its_definition_over_pairs_of_different_sequences() -> None:
    rows = normal(40, 7, seed=1) + 0.3
    units = rows / rows.norm(dim=1, keepdim=True)
    kernel = (-2 * (units[:, None] - units[None]).square().sum(2)).exp()
    pairs = unit_pairs(rows, BLOCK, SEQUENCE, BLOCKS)
    torch.testing.assert_close(pairs.sums, brute_force(kernel, BLOCK, SEQUENCE)[0], rtol=1e-12, atol=1e-12)
    expected = kernel[SEQUENCE[:, None] != SEQUENCE].mean().log()
    torch.testing.assert_close(uniformity(pairs), expected, rtol=1e-12, atol=0)


def test_without_a_block_equals_the_other_rows_alone_and_the_others_keep_their_places() -> None:
    rows = normal(40, 7, seed=2)
    pairs = unit_pairs(rows, BLOCK, SEQUENCE, BLOCKS)
    for out in range(BLOCKS):
        kept = out != BLOCK
        expected = unit_pairs(rows[kept], BLOCK[kept], SEQUENCE[kept], BLOCKS)
        torch.testing.assert_close(pairs.without(out).sums, expected.sums, rtol=1e-12, atol=1e-12)
        assert torch.equal(pairs.without(out).counts, expected.counts)
    kept = BLOCK > 1
    expected = unit_pairs(rows[kept], BLOCK[kept], SEQUENCE[kept], BLOCKS)
    torch.testing.assert_close(uniformity(pairs.without(0).without(1)), uniformity(expected), rtol=1e-12, atol=0)
    assert pairs.counts.sum() == 40 * 38


def test_pairs_inside_a_sequence_do_not_count() -> None:
    rows = torch.eye(3).repeat_interleave(2, 0)
    pairs = unit_pairs(rows, torch.zeros(6, dtype=torch.long), torch.arange(6) // 2, blocks=1)
    assert uniformity(pairs).item() == pytest.approx(-4)


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_rotation_row_scale_and_row_order_do_not_matter(seed: int) -> None:
    rows = normal(40, 6, seed=seed)
    changed = rows @ rotation(6, seed) * (0.1 + normal(40, 1, seed=seed + 1).abs())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    before = uniformity(unit_pairs(rows, BLOCK, SEQUENCE, BLOCKS))
    after = uniformity(unit_pairs(changed[order], BLOCK[order], SEQUENCE[order], BLOCKS))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=0)
    assert -8 <= before.item() <= 0


def test_uniformity_runs_from_opposite_rows_to_one_direction() -> None:
    assert uniformity(alone(torch.tensor([[1.0, 2.0], [-2.0, -4.0]]))).item() == pytest.approx(-8, rel=1e-12)
    one = torch.tensor([[0.1, 0.2, 0.7]]) * torch.arange(1, 9)[:, None]
    assert uniformity(alone(one)).item() == pytest.approx(0, abs=1e-6)
    assert uniformity(alone(one.double())).item() <= 0
    rows = normal(300, 16, seed=3)
    values = [uniformity(alone(rows + offset)).item() for offset in (0.0, 0.5, 2.0)]
    assert values == sorted(values)


@pytest.mark.parametrize(("d", "expected"), [(64, -3.875), (256, -3.969)])
def test_null_is_what_uniform_directions_read(d: int, expected: float) -> None:
    assert null_uniformity(d) == pytest.approx(expected, abs=0.002)
    assert null_uniformity(d) == pytest.approx(-4 + 8 / d, abs=0.002)
    assert uniformity(alone(normal(2048, d, seed=4))).item() == pytest.approx(expected, abs=0.002)


def test_null_has_closed_forms_in_one_and_three_dimensions() -> None:
    # u'v is 1 or -1 in one dimension and uniform on [-1, 1] in three
    assert null_uniformity(1) == pytest.approx(math.log((1 + math.exp(-8)) / 2), rel=1e-12)
    assert null_uniformity(3) == pytest.approx(math.log((1 - math.exp(-8)) / 8), rel=1e-12)
    with pytest.raises(Undefined, match="no null value in 0 dimensions"):
        null_uniformity(0)


def test_rows_of_zero_norm_are_left_out() -> None:
    rows = normal(40, 6, seed=5)
    rows[::7] = 0
    kept = rows.norm(dim=1) > 0
    expected = unit_pairs(rows[kept], BLOCK[kept], SEQUENCE[kept], BLOCKS)
    pairs = unit_pairs(rows, BLOCK, SEQUENCE, BLOCKS)
    assert torch.equal(pairs.sums, expected.sums)
    assert torch.equal(pairs.counts, expected.counts)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_single_sequence_is_undefined_with_the_reason(rows: int) -> None:
    one = torch.zeros(rows, dtype=torch.long)
    pairs = unit_pairs(normal(rows, 4, seed=6), one, one, blocks=2)
    for metric in (uniformity, mean_over_pairs):
        with pytest.raises(Undefined, match="needs rows from two sequences"):
            metric(pairs)


def test_malformed_input_is_refused() -> None:
    two = torch.arange(2)
    with pytest.raises(ValueError, match=r"a kernel \(2, 3\), blocks \(2,\) and sequences \(2,\) do not fit"):
        PairSums.of_kernel(torch.zeros(2, 3), two, two, blocks=2)
    with pytest.raises(ValueError, match=r"blocks lie in 0\.\.0, these in 0\.\.1"):
        PairSums.of_kernel(torch.zeros(2, 2), two, two, blocks=1)
    with pytest.raises(ValueError, match="the kernel holds NaN or infinite entries"):
        unit_pairs(torch.tensor([[math.nan, 1.0], [1.0, 1.0]]), two, two, blocks=2)
