from __future__ import annotations

import math

import pytest
import skdim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined, jackknife
from limberlm.geometry.catalog.dimension import METRICS
from limberlm.geometry.dimension import Neighbours, mle_dimension, twonn
from tests.geometry.clouds import normal, rotation

ESTIMATORS = [twonn, mle_dimension]


def flat(rows: int, dimension: int, seed: int, width: int = 100) -> Tensor:
    """Gaussian rows that fill `dimension` of `width` dimensions, turned out of the axes."""
    return normal(rows, dimension, seed=seed) @ rotation(width, seed)[:dimension]


def of(rows: Tensor, blocks: int = 16) -> Neighbours:
    return Neighbours.of(rows, torch.arange(len(rows)) % blocks)


def same(left: Neighbours, right: Neighbours) -> None:
    """Equal as far as both keep neighbours, which is at least 20 of them."""
    columns = min(left.distances.shape[1], right.distances.shape[1])
    assert columns >= min(20, len(left.states) - 1)
    torch.testing.assert_close(left.distances[:, :columns], right.distances[:, :columns], rtol=1e-12, atol=1e-12)
    assert torch.equal(left.neighbour_block[:, :columns], right.neighbour_block[:, :columns])
    assert torch.equal(left.block_of_row, right.block_of_row)
    assert torch.equal(left.states, right.states)


def test_neighbours_are_the_nearest_other_rows() -> None:
    rows, block = normal(150, 8, seed=0), torch.arange(150) % 7
    every = (rows[:, None] - rows[None]).square().sum(2).sqrt().fill_diagonal_(math.inf).sort(dim=1)
    neighbours = Neighbours.of(rows, block)
    torch.testing.assert_close(neighbours.distances, every.values[:, :64], rtol=1e-12, atol=0)
    assert torch.equal(neighbours.neighbour_block, block[every.indices[:, :64]])
    assert neighbours.removed == 0


def test_small_distances_far_from_the_origin_keep_their_digits() -> None:
    cluster = 1e-6 * normal(100, 5, seed=1)
    rows = torch.cat([cluster + 1, cluster - 1])
    expected = (rows[:, None] - rows[None]).square().sum(2).sqrt().fill_diagonal_(math.inf).sort(dim=1).values
    # which rows are the 64 nearest is decided before the digits are restored, so ties at the 64th may go either way
    torch.testing.assert_close(of(rows).distances[:, :20], expected[:, :20], rtol=1e-12, atol=0)


@pytest.mark.parametrize("blocks", [2, 5, 16])
def test_without_a_block_equals_the_other_rows_alone(blocks: int) -> None:
    rows, block = normal(300, 6, seed=2), torch.randint(0, blocks, (300,), generator=torch.Generator().manual_seed(0))
    whole = Neighbours.of(rows, block)
    for out in range(blocks):
        same(whole.without(out), Neighbours.of(rows[block != out], block[block != out]))
    if blocks > 2:
        kept = block > 1
        same(whole.without(0).without(1), Neighbours.of(rows[kept], block[kept]))


def test_rows_that_lose_nearly_all_neighbours_with_a_block_find_others() -> None:
    crowd, others = 0.01 * normal(200, 4, seed=3), normal(100, 4, seed=4)
    rows, block = torch.cat([crowd, others]), torch.cat([torch.zeros(200), torch.arange(100) % 3 + 1]).long()
    block[:3] = 1  # in the middle of a crowd that goes
    without = Neighbours.of(rows, block).without(0)
    same(without, Neighbours.of(rows[block != 0], block[block != 0]))
    assert without.distances.shape == (103, 20)


def test_without_the_only_block_nothing_is_left() -> None:
    with pytest.raises(Undefined, match="needs 2 neighbours of each row, there are 0 among 0 rows"):
        twonn(Neighbours.of(normal(40, 3, seed=5), torch.ones(40)).without(1))


def test_near_duplicates_are_counted_and_left_out_with_their_doubles() -> None:
    rows = flat(1000, 10, seed=6)
    doubled = torch.cat([rows, rows[:100] + 1e-5 * normal(100, 100, seed=7)])
    assert 0.15 < skdim.id.TwoNN().fit_transform(doubled.numpy()) < 0.37
    neighbours = of(doubled)
    assert neighbours.removed == 200
    assert torch.equal(neighbours.states, rows[100:])
    assert twonn(neighbours).item() == twonn(of(rows[100:])).item()


def test_exact_duplicates_go_though_they_are_most_rows() -> None:
    rows = normal(40, 3, seed=8).repeat_interleave(torch.tensor([3] * 30 + [1] * 10), 0).float()
    neighbours = of(rows)
    assert (neighbours.removed, neighbours.distances.shape) == (90, (10, 9))
    with pytest.raises(Undefined, match="there are 0 among 0 rows \\(50 near-duplicates left out\\)"):
        twonn(of(torch.ones(50, 4)))


def test_twonn_is_the_regression_of_its_paper_by_hand() -> None:
    # ratios 1.5, 2, 4 and 10, of which the largest is dropped; F = 1/4, 1/2, 3/4
    first = torch.tensor([[4.0, 8.0], [2.0, 3.0], [1.0, 10.0], [1.0, 4.0]], dtype=torch.float64)
    block = torch.zeros(4)
    neighbours = Neighbours(first, torch.zeros(4, 2), block, torch.zeros(4, 1), 0)
    x, y = [math.log(1.5), math.log(2), math.log(4)], [math.log(4 / 3), math.log(2), math.log(4)]
    slope = sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
    assert twonn(neighbours).item() == pytest.approx(slope, rel=1e-14)


def test_maximum_likelihood_averages_the_inverses_by_hand() -> None:
    first = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 2.0]], dtype=torch.float64)
    neighbours = Neighbours(first, torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 1), 0)
    inverses = [(math.log(4) + math.log(2)) / 2, (math.log(2) + math.log(2)) / 2]
    assert mle_dimension(neighbours, k=3).item() == pytest.approx(2 / sum(inverses), rel=1e-14)


@pytest.mark.parametrize(("dimension", "width"), [(3, 20), (5, 100), (20, 100)])
def test_estimators_equal_scikit_dimension(dimension: int, width: int) -> None:
    rows = flat(600, dimension, seed=9, width=width)
    neighbours, array = of(rows), rows.numpy()
    assert twonn(neighbours).item() == pytest.approx(skdim.id.TwoNN().fit_transform(array), rel=1e-9)
    assert mle_dimension(neighbours).item() == pytest.approx(skdim.id.MLE().fit(array).dimension_, rel=1e-9)


@pytest.mark.parametrize(
    ("rows", "dimension", "by_twonn", "by_mle"),
    [
        (2000, 5, (5.0, 0.3), (5.0, 0.1)),
        (2000, 10, (9.6, 0.5), (9.2, 0.2)),
        (2000, 20, (17.0, 1), (15.3, 0.3)),
        (2000, 50, (32, 3), None),
        (1000, 20, (16.2, 1), None),
    ],
)
def test_gaussian_rows_read_ever_shorter_of_their_dimension(rows: int, dimension: int, by_twonn, by_mle) -> None:
    samples = [of(flat(rows, dimension, seed=seed)) for seed in range(3)]

    def average(estimate) -> float:
        return sum(estimate(sample).item() for sample in samples) / len(samples)

    assert average(twonn) == pytest.approx(by_twonn[0], abs=by_twonn[1])
    if by_mle:
        assert average(mle_dimension) == pytest.approx(by_mle[0], abs=by_mle[1])


def test_edges_lower_the_dimension_of_a_cube() -> None:
    uniform = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert twonn(of(uniform)).item() == pytest.approx(15.3, abs=1)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_rotation_translation_scale_and_row_order_do_not_matter(seed: int, scale: float, offset: float) -> None:
    rows = normal(60, 6, seed=seed)
    moved = scale * (rows @ rotation(6, seed) + offset)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    before, after = of(rows), of(moved[order])
    for estimate in ESTIMATORS:
        torch.testing.assert_close(estimate(after), estimate(before), rtol=1e-10, atol=0)


def test_states_of_less_precision_are_measured_in_float64() -> None:
    rows = flat(200, 4, seed=11).float()
    assert of(rows).distances.dtype == torch.float64
    torch.testing.assert_close(of(rows).distances, of(rows.double()).distances, rtol=0, atol=0)


@pytest.mark.parametrize(("estimate", "times"), [(twonn, 1.8), (mle_dimension, 1.5)])
def test_the_jackknife_overstates_the_error(estimate, times: float) -> None:
    values, errors = [], []
    for seed in range(60):
        rows = flat(320, 5, seed=seed, width=8)
        whole = of(rows)
        left = [estimate(whole.without(block)).item() for block in range(16)]
        values.append(math.log(estimate(whole).item()))
        errors.append(jackknife(estimate(whole).item(), left, scale="log").std_error)
    spread = torch.tensor(values).std().item()
    assert sum(errors) / len(errors) / spread == pytest.approx(times, rel=0.25)


@pytest.mark.parametrize("dimension", [3, 8])
def test_the_jackknife_is_right_when_blocks_leave_as_neighbours_two_times_in_five(dimension: int) -> None:
    values, errors = [], []
    for seed in range(50):
        whole = of(flat(320, dimension, seed=seed, width=10))
        left = [whole.left_out(block) for block in range(16)]
        found = {f: (f(whole).item(), [f(rest).item() for rest in left]) for f in ESTIMATORS}
        values.append([math.log(value) for value, _ in found.values()])
        errors.append([jackknife(*both, scale="log", centre="value").std_error for both in found.values()])
    ratio = torch.tensor(errors).mean(0) / torch.tensor(values).std(0)
    assert ((ratio > 0.8) & (ratio < 1.5)).all(), ratio  # the jackknife of all leaving: 1.5 to 1.8
    assert 0.85 < ratio[-1] < 1.15


@pytest.mark.parametrize("rows", [0, 1, 2, 20])
def test_too_few_rows_are_undefined_with_the_reason(rows: int) -> None:
    neighbours = Neighbours.of(normal(rows, 3, seed=12), torch.zeros(rows))
    if rows < 3:
        with pytest.raises(Undefined, match=f"needs 2 neighbours of each row, there are {max(0, rows - 1)}"):
            twonn(neighbours)
    with pytest.raises(Undefined, match=f"needs 20 neighbours of each row, there are {max(0, rows - 1)}"):
        mle_dimension(neighbours)


def test_a_lattice_has_no_dimension_by_ratios() -> None:
    grid = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)).double()
    for rows in (grid, grid @ rotation(2, 0)):
        with pytest.raises(Undefined, match="the 2 nearest neighbours of each row are equally far"):
            twonn(of(rows))
    with pytest.raises(Undefined, match="the 20 nearest neighbours of each row are equally far"):
        mle_dimension(of(rotation(30, 0)))
    # one row off the lattice is among the tenth that is dropped
    with pytest.raises(Undefined, match="equally far"):
        twonn(of(torch.cat([grid, torch.tensor([[50.0, 70.0]])])))


def test_malformed_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4,\) blocks do not fit states of shape \(5, 2\)"):
        Neighbours.of(torch.zeros(5, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        Neighbours.of(torch.tensor([[math.nan, 1.0]]), torch.zeros(1))
    with pytest.raises(ValueError, match="keep is at least 20"):
        Neighbours.of(torch.zeros(5, 2), torch.zeros(5), keep=5)
    with pytest.raises(ValueError, match="k is at least 2"):
        mle_dimension(of(normal(30, 2, seed=13)), k=1)


@pytest.mark.parametrize("record", METRICS, ids=[record.name for record in METRICS])
def test_the_records_compute_from_neighbours(record) -> None:
    assert record.needs == "neighbours"
    assert record.compute(of(flat(100, 4, seed=14))).dtype == torch.float64
