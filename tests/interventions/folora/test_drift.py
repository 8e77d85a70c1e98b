"""The drift of a module through products of rank r, against whole matrices in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.interventions.decorrelation.formulas import Change
from limberlm.interventions.folora.drift import output_change, output_size, share_on_floor
from tests.interventions.folora.measured import basis, moment

SIZES = st.integers(1, 7)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 3), SIZES, SIZES, SIZES, st.booleans())
def test_value_and_gradients_are_those_of_whole_matrices(
    seed: int, m: int, d_out: int, r: int, d_in: int, moved: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    B, A = normal(generator, m, d_out, r).requires_grad_(), normal(generator, m, r, d_in).requires_grad_()
    B0, A0 = (normal(generator, *B.shape), normal(generator, *A.shape)) if moved else (0 * B.detach(), 0 * A.detach())
    C, scale = moment(generator, d_in), torch.rand(m, generator=generator, dtype=torch.float64) + 0.5
    dW = scale[:, None, None] * (B @ A - B0 @ A0)
    wanted = (dW @ C * dW).sum((1, 2))
    by_autograd = torch.autograd.grad(wanted.sum(), [B, A])
    change = Change.of(B.detach(), A.detach(), (B0, A0) if moved else None)
    value, *gradients = output_change(change, C, scale)
    assert torch.allclose(value, wanted.detach(), rtol=1e-12, atol=0)
    for found, exact in zip(gradients, by_autograd, strict=True):
        assert torch.linalg.vector_norm(found - exact) <= 1e-12 * torch.linalg.vector_norm(exact)


def test_drift_is_the_outputs_mean_square_change_over_their_mean_square() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, W = normal(generator, 500, 12), normal(generator, 5, 12)
    B, A, B0, A0 = (normal(generator, *shape) for shape in ((1, 5, 3), (1, 3, 12)) * 2)
    before = inputs @ (W + 2 * B0 @ A0)[0].T
    after = inputs @ (W + 2 * B @ A)[0].T
    C = inputs.T @ inputs / 500
    value, _, _ = output_change(Change.of(B, A, (B0, A0)), C, torch.tensor([2.0], dtype=torch.float64))
    drift = value / output_size((W + 2 * B0 @ A0)[0], C)
    assert float(drift) == pytest.approx(float((after - before).square().sum() / before.square().sum()), rel=1e-14)


def test_a_small_step_from_a_start_far_off_keeps_its_digits() -> None:
    """In float32, where B A and B0 A0 agree to six digits."""
    generator = torch.Generator().manual_seed(2)
    B0, A0, dB, dA = (normal(generator, *shape).float() for shape in ((1, 40, 4), (1, 4, 30)) * 2)
    B, A, C = B0 + 1e-6 * dB, A0 + 1e-6 * dA, moment(generator, 30)
    dW = B.double() @ A.double() - B0.double() @ A0.double()
    wanted = float((dW @ C * dW).sum())
    value, _, _ = output_change(Change.of(B, A, (B0, A0)), C.float(), torch.ones(1).double())
    assert float(value) == pytest.approx(wanted, rel=1e-3)


def test_a_step_along_floored_directions_lies_on_the_floor() -> None:
    generator = torch.Generator().manual_seed(3)
    seen = moment(generator, 16)
    found = basis(seen, moment(generator, 16), 1)
    gate = (found.gamma / (found.gamma + 1)).clamp(min=0.3)
    floored = gate == 0.3
    assert 0 < int(floored.sum()) < 16
    along = normal(generator, 1, 4, 16)
    wanted = float(along[..., floored].square().sum() / along.square().sum())
    assert float(share_on_floor(along @ found.V.T, seen, found, 1.0, 0.3)) == pytest.approx(wanted, rel=1e-9)
    assert float(share_on_floor(along * floored @ found.V.T, seen, found, 1.0, 0.3)) == pytest.approx(1)
    assert float(share_on_floor(along * ~floored @ found.V.T, seen, found, 1.0, 0.3)) < 1e-12


@pytest.mark.parametrize(("lam", "s_min", "share"), [(0.0, 0.3, 0), (1.0, 1.0, 0), (1.0, 0.0, 0), (1e9, 0.3, 1)])
def test_a_gate_that_is_off_has_no_floor_and_a_closed_one_is_all_floor(lam: float, s_min: float, share: int) -> None:
    generator = torch.Generator().manual_seed(4)
    seen = moment(generator, 8)
    found = basis(seen, moment(generator, 8), 1)
    assert float(share_on_floor(normal(generator, 1, 2, 8), seen, found, lam, s_min)) == pytest.approx(share)
    assert float(share_on_floor(torch.zeros(1, 2, 8).double(), seen, found, 1.0, 0.3)) == 0
