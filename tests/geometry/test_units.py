from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.geometry import Undefined
from limberlm.geometry.catalog import units as catalog
from limberlm.geometry.units import UnitSums, dormant_share, duplicated_share
from tests.geometry.clouds import normal

TAUS = (0.01, 0.025, 0.1)


def summed(rows: torch.Tensor) -> UnitSums:
    sums = UnitSums.zeros(rows.shape[1])
    sums.update(rows)
    return sums


# --- dormant units


def test_ten_of_a_hundred_zeroed_are_ten_at_any_threshold_and_any_scale() -> None:
    activations = normal(400, 100, seed=0)
    activations[:, 5::10] = 0.0
    for tau in (0.0, *TAUS):
        for scale in (1.0, 7.0, 1e-3):
            assert dormant_share(summed(scale * activations), tau).item() == 10 / 100


def test_the_share_equals_loops_over_units() -> None:
    activations = normal(50, 40, seed=1) * torch.logspace(-3, 1, 40, dtype=torch.float64)
    sizes = [math.fsum(abs(h) for h in column) / 50 for column in activations.T.tolist()]
    average = math.fsum(sizes) / 40
    for tau in (*TAUS, 0.5, 1.0):
        expected = sum(size / average <= tau for size in sizes) / 40
        assert dormant_share(summed(activations), tau).item() == pytest.approx(expected, abs=1e-15)


def test_the_catalog_names_the_thresholds() -> None:
    activations = torch.ones(20, 10)
    activations[:, 0], activations[:, 1], activations[:, 2] = 0.005, 0.014, 0.05
    found = {record.name: record.compute(summed(activations)).item() for record in catalog.METRICS[:3]}
    assert found == {"dormant_units_0.01": 0.1, "dormant_units_0.025": 0.2, "dormant_units_0.1": 0.3}


@given(cuts=st.lists(st.integers(0, 30), max_size=4), order=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_split_and_order_of_shards_gives_the_sums_of_the_whole(cuts: list[int], order) -> None:
    rows = normal(30, 6, seed=2)
    edges = [0, *sorted(cuts), 30]
    shards = [summed(rows[a:b]) for a, b in itertools.pairwise(edges)]
    order.shuffle(shards)
    whole = shards[0]
    for shard in shards[1:]:
        whole = whole.merge(shard)
    assert whole.count == 30
    torch.testing.assert_close(whole.total, rows.abs().sum(0), rtol=1e-13, atol=0)
    left = whole.without(shards[0])
    assert left.count == 30 - shards[0].count
    torch.testing.assert_close(left.total, whole.total - shards[0].total)


def test_a_unit_silent_outside_the_block_taken_away_is_dormant() -> None:
    loud, quiet = normal(30, 8, seed=3), normal(30, 8, seed=4)
    quiet[:, 2] = 0.0
    left = summed(loud).merge(summed(quiet)).without(summed(loud))
    assert dormant_share(left, 0.01).item() == 1 / 8


def test_float32_and_bfloat16_rows_add_up_in_float64() -> None:
    rows = normal(1000, 4, seed=5)
    for short in (rows.float(), rows.bfloat16()):
        sums = summed(short)
        assert sums.total.dtype == torch.float64
        torch.testing.assert_close(sums.total, short.double().abs().sum(0), rtol=1e-6, atol=0)


def test_without_activity_there_is_no_share() -> None:
    with pytest.raises(Undefined, match="no activations"):
        dormant_share(UnitSums.zeros(4), 0.1)
    with pytest.raises(Undefined, match="every unit is zero"):
        dormant_share(summed(torch.zeros(5, 4)), 0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        dormant_share(summed(torch.tensor([[1.0, math.inf]])), 0.1)
    with pytest.raises(ValueError, match="do not fit 3 units"):
        UnitSums.zeros(3).update(torch.zeros(2, 4))


# --- duplicated units


def by_numpy(activations: torch.Tensor, threshold: float) -> float:
    correlation = np.abs(np.corrcoef(activations.numpy().T))
    np.fill_diagonal(correlation, 0)
    return float((correlation > threshold).any(1).mean())


@pytest.mark.parametrize("units", [3, 40, 512, 513, 700])
@pytest.mark.parametrize("threshold", [0.3, 0.99])
def test_the_share_equals_numpy(units: int, threshold: float) -> None:
    activations = normal(60, units, seed=6) + 2
    clones = torch.randperm(units, generator=torch.Generator().manual_seed(7))[: units // 3 * 2].view(2, -1)
    activations[:, clones[0]] = -3 * activations[:, clones[1]] + 0.1 * normal(60, clones.shape[1], seed=8)
    found = duplicated_share(activations, threshold).item()
    assert found == pytest.approx(by_numpy(activations, threshold), abs=1e-15)
    if threshold == 0.99:
        assert found == pytest.approx(2 * clones.shape[1] / units)


def test_independent_units_are_no_duplicates_and_equal_ones_all_are() -> None:
    assert duplicated_share(normal(512, 300, seed=9)).item() == 0.0
    assert duplicated_share(normal(512, 1, seed=10).expand(512, 9)).item() == 1.0
    assert duplicated_share(normal(512, 300, seed=9).float()).dtype == torch.float64


def test_constant_units_do_not_count() -> None:
    activations = normal(50, 6, seed=11)
    activations[:, 1] = 2 * activations[:, 0] + 1
    with_constants = torch.cat([torch.zeros(50, 2), activations, torch.full((50, 3), 0.1)], 1)
    for rows in (with_constants, with_constants.float()):
        assert duplicated_share(rows).item() == pytest.approx(2 / 6)


@given(seed=st.integers(0, 1000), offset=st.floats(-20, 20))
@settings(max_examples=25, deadline=None)
def test_an_affine_map_of_each_unit_and_the_order_do_not_matter(seed: int, offset: float) -> None:
    activations = normal(40, 12, seed=seed)
    activations[:, 3] = activations[:, 4]
    changed = activations * (0.1 + normal(12, seed=seed + 1).abs()) + offset * normal(12, seed=seed + 2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    for threshold in (0.4, 0.99):
        before = duplicated_share(activations, threshold)
        assert duplicated_share(changed[rows][:, order], threshold).item() == before.item()


def test_too_few_rows_or_units_have_no_duplicates() -> None:
    with pytest.raises(Undefined, match="16 rows, there are 15"):
        duplicated_share(normal(15, 4, seed=12))
    with pytest.raises(Undefined, match="two units that vary, there are 1"):
        duplicated_share(torch.cat([normal(20, 1, seed=13), torch.ones(20, 3)], 1))
    with pytest.raises(ValueError, match="NaN or infinite"):
        duplicated_share(torch.full((20, 2), math.nan))
    with pytest.raises(ValueError, match="activations are"):
        duplicated_share(torch.zeros(20))
