from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry.angles import (
    chordal_distance,
    grassmann_distance,
    null_principal_angle_mean,
    orthonormal_basis,
    principal_angles,
)
from limberlm.geometry.undefined import Undefined
from tests.geometry.clouds import normal, rotation


def at_angles(angles: list[float], d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two bases [d, k] whose principal angles are `angles`, turned and mixed at random."""
    k, theta = len(angles), torch.tensor(angles, dtype=torch.float64)
    s, t = torch.zeros(2, d, k, dtype=torch.float64)
    s[:k] = torch.eye(k)
    t[:k], t[k : 2 * k] = theta.cos().diag(), theta.sin().diag()
    turn = rotation(d, seed)
    return turn @ s @ rotation(k, seed + 1), turn @ t @ rotation(k, seed + 2)


@pytest.mark.parametrize("angle", [1e-3, 1e-4, 1e-7])
def test_small_angles_are_exact_where_a_float32_arc_cosine_sees_steps(angle: float) -> None:
    s, t = at_angles([angle, 0.5, 1.5], d=64)
    assert principal_angles(s, t)[0].item() == pytest.approx(angle, rel=1e-6)


def test_a_float32_arc_cosine_would_not_see_a_ten_thousandth() -> None:
    read = torch.tensor([1e-4, 1e-3], dtype=torch.float64).cos().float().acos()
    assert read[0].item() in (0.0, pytest.approx(3.45e-4, rel=0.01))
    assert abs(read[1].item() / 1e-3 - 1) > 0.02


@given(st.lists(st.floats(0, math.pi / 2), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_angles_put_in_come_out_in_rising_order(angles: list[float], seed: int) -> None:
    found = principal_angles(*at_angles(angles, d=14, seed=seed))
    expected = torch.tensor(sorted(angles), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("wide", "narrow"), [(5, 5), (7, 3), (3, 7), (19, 4)])
def test_angles_equal_scipy_also_between_subspaces_of_different_size(wide: int, narrow: int) -> None:
    s, t = orthonormal_basis(normal(20, wide, seed=1)), orthonormal_basis(normal(20, narrow, seed=2))
    expected = torch.from_numpy(scipy.linalg.subspace_angles(s.numpy(), t.numpy())).flip(0)
    torch.testing.assert_close(principal_angles(s, t), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(principal_angles(t, s), expected, rtol=1e-10, atol=1e-12)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_common_rotation_and_the_choice_of_basis_do_not_matter(seed: int) -> None:
    s, t = orthonormal_basis(normal(16, 4, seed=seed)), orthonormal_basis(normal(16, 4, seed=seed + 1))
    turn = rotation(16, seed)
    changed = principal_angles(turn @ s @ rotation(4, seed + 2), turn @ t @ rotation(4, seed + 3))
    torch.testing.assert_close(changed, principal_angles(s, t), rtol=1e-10, atol=1e-10)


def test_distances_are_those_of_the_projectors_and_of_the_geodesic() -> None:
    s, t = at_angles([0.1, 0.9, 1.2], d=12)
    angles = principal_angles(s, t)
    projectors = (s @ s.T - t @ t.T).norm().item() / math.sqrt(2)
    assert chordal_distance(angles).item() == pytest.approx(projectors, rel=1e-12)
    assert grassmann_distance(angles).item() == pytest.approx(math.sqrt(0.1**2 + 0.9**2 + 1.2**2), rel=1e-12)
    assert chordal_distance(principal_angles(s, s)).item() == pytest.approx(0.0, abs=1e-14)


def test_bases_of_float32_factorisations_are_refused_until_made_orthonormal() -> None:
    factor = normal(512, 16, seed=3)
    loose = torch.linalg.svd(factor.float(), full_matrices=False)[0]
    with pytest.raises(ValueError, match="not orthonormal"):
        principal_angles(loose, loose)
    exact = torch.linalg.svd(factor, full_matrices=False)[0]
    assert principal_angles(orthonormal_basis(loose), exact).max().item() < 1e-5
    assert principal_angles(exact, exact).max().item() < 1e-14


def test_a_basis_spans_its_columns_at_any_scale_of_each() -> None:
    columns = normal(10, 3, seed=4) * torch.tensor([1e-9, 1.0, 1e9])
    basis = orthonormal_basis(columns)
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)
    outside = columns - basis @ (basis.T @ columns)
    assert (outside.norm(dim=0) / columns.norm(dim=0)).max().item() < 1e-12


@pytest.mark.parametrize(
    "columns", [torch.ones(4, 2), torch.zeros(4, 1), torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [1.0, 2.0, 5.0]])]
)
def test_dependent_columns_are_undefined(columns: Tensor) -> None:
    with pytest.raises(Undefined, match="linearly dependent"):
        orthonormal_basis(columns)


def test_malformed_bases_are_refused() -> None:
    axes = torch.eye(4)
    with pytest.raises(ValueError, match="at most d columns"):
        orthonormal_basis(torch.ones(2, 3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        principal_angles(axes[:, :1] * math.nan, axes)
    with pytest.raises(ValueError, match="of 4 and of 5 dimensions"):
        principal_angles(axes[:, :2], torch.eye(5)[:, :2])
    with pytest.raises(Undefined, match="without directions"):
        principal_angles(axes[:, :0], axes)


@pytest.mark.parametrize(("k", "d"), [(32, 512), (32, 128), (32, 64), (32, 48), (16, 2048)])
def test_mean_angle_of_unrelated_subspaces_is_its_null(k: int, d: int) -> None:
    pairs = [[orthonormal_basis(normal(d, k, seed=2 * seed + side)) for side in (0, 1)] for seed in range(10)]
    mean = np.mean([principal_angles(*pair).rad2deg().mean().item() for pair in pairs])
    assert mean == pytest.approx(math.degrees(null_principal_angle_mean(k, d)), abs=0.4)


def test_the_null_needs_a_proper_subspace() -> None:
    assert null_principal_angle_mean(1, 2) == pytest.approx(math.pi / 4, rel=1e-6)
    for k, d in ((0, 4), (4, 4)):
        with pytest.raises(Undefined, match="say nothing"):
            null_principal_angle_mean(k, d)
