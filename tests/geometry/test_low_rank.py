from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry.low_rank import Factored, singular_bases
from tests.geometry.clouds import normal, rotation

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 30))


def factored(d_out: int, d_in: int, r: int, *, seed: int = 0, scale: float = 2.0) -> Factored:
    return Factored(normal(d_out, r, seed=seed), normal(r, d_in, seed=seed + 500), scale)


def dense(update: Factored) -> Tensor:
    """The product by plain loops over ranks, so that no code under test takes part."""
    total = torch.zeros(update.shape, dtype=torch.float64)
    for column, row in zip(update.left.T, update.right, strict=True):
        total += update.scale * column[:, None] * row
    return total


def same_values(found: Tensor, expected: Tensor, relative: float = 1e-12) -> None:
    """The kept singular values agree, and those left out are zero."""
    assert len(found) <= len(expected)
    assert (found - expected[: len(found)]).abs().max() <= relative * expected[0]
    assert (expected[len(found) :] <= 1e-10 * expected[0]).all()


@given(shape=shapes, seed=st.integers(0, 400), scale=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_spectrum_inner_product_and_norm_equal_those_of_the_dense_matrix(shape, seed: int, scale: float) -> None:
    update = factored(*shape, seed=seed, scale=scale)
    other = factored(*shape[:2], 3, seed=seed + 7, scale=-1.5)
    matrix, bases = dense(update), update.bases()
    same_values(bases.values, torch.linalg.svdvals(matrix))
    size = matrix.norm()
    assert abs(update.norm() - size) <= 1e-12 * size
    assert abs(bases.norm() - size) <= 1e-12 * size
    expected = (matrix * dense(other)).sum()
    bound = 1e-12 * size * dense(other).norm()
    assert abs(update.inner(other) - expected) <= bound
    assert abs(bases.inner(other.bases()) - expected) <= 1e-9 * size * dense(other).norm()


def test_a_large_lora_spectrum_keeps_twelve_digits() -> None:
    update = factored(512, 384, 16)
    same_values(update.bases().values, torch.linalg.svdvals(dense(update)))
    assert update.bases().rank == 16


@given(shape=shapes, seed=st.integers(0, 400))
@settings(max_examples=40, deadline=None)
def test_bases_are_orthonormal_and_give_the_matrix_back(shape, seed: int) -> None:
    update = factored(*shape, seed=seed)
    for bases in (update.bases(), singular_bases(dense(update))):
        for basis in (bases.left, bases.right):
            assert (basis.T @ basis - torch.eye(bases.rank)).abs().max() < 1e-12
        assert (bases.dense() - dense(update)).norm() <= 1e-9 * dense(update).norm()
        assert (bases.values[:-1] >= bases.values[1:]).all()


@given(seed=st.integers(0, 400), log_condition=st.floats(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_gauge_changes_nothing(seed: int, log_condition: float) -> None:
    update, other = factored(20, 14, 4, seed=seed), factored(20, 14, 3, seed=seed + 7)
    stretch = torch.logspace(0, log_condition, 4, dtype=torch.float64).diag()
    M = rotation(4, seed) @ stretch @ rotation(4, seed + 1)
    turned = Factored(update.left @ torch.linalg.inv(M), M @ update.right, update.scale)
    plain, changed = update.bases(), turned.bases()
    assert (plain.values - changed.values).abs().max() < 1e-10 * plain.values[0]
    assert (plain.left @ plain.left.T - changed.left @ changed.left.T).abs().max() < 1e-10
    assert abs(update.inner(other) - turned.inner(other)) < 1e-10 * update.norm() * other.norm()
    assert (update - turned).bases().norm() < 1e-10 * update.norm()


@pytest.mark.parametrize("scales", [(2.0, 2.0), (2.0, 0.5)], ids=["one scale", "the scale changed"])
def test_a_continued_adapter_differs_by_the_explicit_difference(scales: tuple[float, float]) -> None:
    earlier, later = factored(60, 40, 5, scale=scales[0]), factored(60, 40, 5, seed=3, scale=scales[1])
    difference, explicit = later - earlier, dense(later) - dense(earlier)
    assert difference.inner_dimension == difference.bases().rank == 10
    same_values(difference.bases().values, torch.linalg.svdvals(explicit))
    torch.testing.assert_close(difference.dense(), explicit, rtol=1e-12, atol=1e-12)


def test_a_small_continued_step_keeps_the_digits_its_factors_have() -> None:
    earlier = factored(60, 40, 5)
    later = Factored(earlier.left + 1e-6 * normal(60, 5, seed=9), earlier.right, earlier.scale)
    explicit = torch.linalg.svdvals(dense(later) - dense(earlier))
    found = (later - earlier).bases()
    assert found.rank == 5
    assert ((found.values - explicit[:5]).abs() / explicit[:5]).max() < 1e-8


def test_stacked_adapters_add_up() -> None:
    parts = [factored(30, 20, r, seed=r, scale=1 / r) for r in (2, 3, 4)]
    total = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(total.dense(), sum(map(dense, parts)), rtol=1e-12, atol=1e-12)
    assert total.bases().rank == 9
    torch.testing.assert_close((-total).dense(), -total.dense())


def test_equal_factors_differ_by_exactly_zero_and_equal_products_by_no_direction() -> None:
    update = factored(30, 20, 4)
    same = update - Factored(update.left.clone(), update.right.clone(), update.scale)
    assert same.norm() == same.bases().norm() == 0
    assert same.bases().rank == 0
    doubled = Factored(2 * update.left, update.right, update.scale / 2)
    assert (update - doubled).bases().rank == 0
    assert (update - doubled).bases().norm() == 0


def test_a_zero_factor_gives_a_zero_matrix() -> None:
    bases = Factored(torch.zeros(6, 2), normal(2, 5, seed=0)).bases()
    assert (bases.rank, float(bases.norm())) == (0, 0.0)
    assert bases.left.shape == (6, 0)
    assert bases.dense().shape == (6, 5)
    assert singular_bases(torch.zeros(3, 4)).rank == 0


def test_a_low_rank_matrix_keeps_only_its_directions() -> None:
    left = torch.cat([normal(30, 2, seed=1), torch.zeros(30, 1)], 1)
    assert Factored(left, normal(3, 20, seed=2)).bases().rank == 2
    assert singular_bases(dense(factored(30, 20, 3))).rank == 3
    assert factored(30, 20, 6).bases().top(2).values.numel() == 2


def test_half_precision_factors_are_read_exactly() -> None:
    left, right = normal(8, 2, seed=0).bfloat16(), normal(2, 6, seed=1).bfloat16()
    assert torch.equal(Factored(left, right).left, left.double())
    assert Factored(left, right).bases().values.dtype == torch.float64


def test_malformed_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Factored(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="do not fit"):
        Factored(torch.ones(3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="NaN"):
        Factored(torch.tensor([[float("nan")]]), torch.ones(1, 1))
    with pytest.raises(ValueError, match="NaN"):
        Factored(torch.ones(1, 1), torch.ones(1, 1), float("inf"))
    with pytest.raises(ValueError, match="have no sum"):
        _ = factored(3, 2, 1) + factored(2, 3, 1)
    with pytest.raises(ValueError, match="have no inner product"):
        factored(3, 2, 1).inner(factored(2, 3, 1))
    with pytest.raises(ValueError, match="two dimensions"):
        singular_bases(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        singular_bases(torch.tensor([[float("inf")]]))
