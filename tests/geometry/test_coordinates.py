from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.geometry import Moments, Undefined, effective_rank, eigenvalues, variance_share
from limberlm.geometry.coordinates import feature_rank, mean_share, second_moment, top_dimension_share
from tests.geometry.clouds import blocks, merged, moments, normal, power_law, rotation

EQUAL = torch.full((9, 3), 0.3)


def test_a_rogue_coordinate_is_seen_whatever_the_others_do() -> None:
    rows = normal(4000, 32, seed=0)
    rows[:, 5] *= 10
    sums = moments(rows)
    assert top_dimension_share(sums).item() == pytest.approx(
        rows.var(0)[5].item() / rows.var(0).sum().item(), rel=1e-12
    )
    assert top_dimension_share(sums).item() == pytest.approx(100 / 131, rel=0.02)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
@settings(max_examples=30, deadline=None)
def test_the_top_coordinate_ignores_scale_translation_and_order_and_never_beats_the_top_direction(
    seed: int, scale: float, offset: float
) -> None:
    rows = normal(40, 8, seed=seed) * power_law(8, 1.0).sqrt()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    plain = top_dimension_share(moments(rows)).item()
    changed = moments((scale * (rows + offset))[:, order].flip(0), torch.full((8,), scale * offset))
    assert top_dimension_share(changed).item() == pytest.approx(plain, rel=1e-10)
    top = variance_share(eigenvalues(moments(rows).covariance), 1).item()
    turned = top_dimension_share(moments(rows @ rotation(8, seed))).item()
    assert 1 / 8 <= turned <= top * (1 + 1e-12)
    assert plain <= top * (1 + 1e-12)


def test_the_share_of_the_mean_is_that_of_its_square_in_the_second_moment() -> None:
    rows = normal(500, 6, seed=1) + torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])
    offset, spread = rows.mean(0).square().sum(), rows.var(0).sum()
    for sums in (moments(rows), moments(rows, torch.ones(6)), merged(blocks(rows))):
        assert mean_share(sums).item() == pytest.approx((offset / (offset + spread)).item(), rel=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_share_of_the_mean_ignores_rotation_scale_and_row_order(seed: int, scale: float) -> None:
    rows = normal(40, 8, seed=seed) + 0.5
    changed = (scale * rows @ rotation(8, seed)).flip(0)
    assert mean_share(moments(changed)).item() == pytest.approx(mean_share(moments(rows)).item(), rel=1e-10)


@pytest.mark.parametrize("height", [0.5, 3.0, 10.0])
def test_the_share_of_the_mean_links_the_uncentred_rank_to_the_centred_one(height: float) -> None:
    """For a mean orthogonal to the centred states; the covariance divides by n - 1, hence the tolerance of 1/n."""
    rows = torch.cat([normal(20_000, 20, seed=2), torch.zeros(20_000, 1)], 1)
    rows[:, :20] -= rows[:, :20].mean(0)
    rows[:, 20] = height
    sums = moments(rows)
    w, inside = mean_share(sums).item(), effective_rank(eigenvalues(sums.covariance)).item()
    entropy = -w * math.log(w) - (1 - w) * math.log(1 - w)
    outside = effective_rank(eigenvalues(second_moment(sums))).item()
    assert outside == pytest.approx(math.exp(entropy) * inside ** (1 - w), rel=2e-4)


def test_equal_states_are_all_mean() -> None:
    assert mean_share(moments(EQUAL, EQUAL[0])).item() == 1.0


def test_the_second_moment_is_about_the_origin_whatever_the_shift() -> None:
    rows = normal(30, 4, seed=3) + 5
    for sums in (moments(rows), moments(rows, torch.full((4,), 5.0)), merged(blocks(rows, 4))):
        torch.testing.assert_close(second_moment(sums), rows.T @ rows / 30, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "offset"), [(400, 0.0), (400, 1.0), (10, 0.0), (10, 1.0)])
def test_feature_rank_counts_the_singular_values_over_a_hundredth(n: int, offset: float) -> None:
    scales = torch.logspace(0, -4, 24, dtype=torch.float64)
    rows = (normal(n, 24, seed=4) * scales + offset) @ rotation(24, seed=5)
    expected = int((torch.linalg.svdvals(rows / math.sqrt(n)) > 0.01).sum())
    assert 0 < expected < 24
    for sums in (moments(rows), moments(rows, torch.ones(24)), merged(blocks(rows, 5))):
        assert feature_rank(sums).item() == expected


def test_feature_rank_is_not_free_of_scale() -> None:
    rows = normal(100, 4, seed=6)
    assert [feature_rank(moments(c * rows)).item() for c in (1, 1e-4, 0)] == [4.0, 0.0, 0.0]


def test_a_reason_where_there_is_no_value() -> None:
    nothing = Moments.zeros(torch.zeros(3))
    for metric in (second_moment, feature_rank):
        with pytest.raises(Undefined, match="no rows"):
            metric(nothing)
    for metric in (top_dimension_share, mean_share):
        with pytest.raises(Undefined, match="two rows, there are 1"):
            metric(moments(torch.ones(1, 3)))
    with pytest.raises(Undefined, match="all states are equal"):
        top_dimension_share(moments(EQUAL, EQUAL[0]))
    with pytest.raises(Undefined, match="all states are zero"):
        mean_share(moments(torch.zeros(9, 3)))
