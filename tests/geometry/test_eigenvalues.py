from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from limberlm.geometry import Undefined, eigenvalues
from limberlm.geometry.spectrum import eigensystem
from tests.geometry.clouds import moments, normal, power_law, rotation


def test_eigenvalues_come_in_falling_order_from_the_lower_triangle() -> None:
    eigs = power_law(20, 1.0)
    q = rotation(20, seed=0)
    covariance = q * eigs @ q.T
    torch.testing.assert_close(eigenvalues(covariance), eigs, rtol=1e-12, atol=1e-14)
    above = normal(20, 20, seed=1).triu(1)
    torch.testing.assert_close(eigenvalues(covariance + above), eigs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("n", [10, 100])
def test_the_eigensystem_is_orthonormal_and_puts_the_covariance_together_again(n: int) -> None:
    covariance = moments(normal(n, 20, seed=5) * power_law(20, 1.0).sqrt()).covariance
    values, vectors = eigensystem(covariance)
    torch.testing.assert_close(values, eigenvalues(covariance), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(vectors * values @ vectors.T, covariance, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.ones(2, 3), "square"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), "NaN or infinite"),
        (torch.tensor([[math.inf, 0.0], [0.0, 1.0]]), "NaN or infinite"),
        (torch.diag(torch.tensor([1.0, -0.01])), "not a covariance: eigenvalue -0.01"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix: Tensor, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        eigenvalues(matrix)
    assert not isinstance(caught.value, Undefined)
    with pytest.raises(ValueError, match=reason):
        eigensystem(matrix)
