"""The anchor's closed form against autograd, finite differences and the two forms that the reference gives it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limberlm.interventions.anchors.formulas import anchored


def rows(seed: int, n: int = 7, d: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states, reference = torch.randn(2, n, d, dtype=torch.float64, generator=generator)
    return 3 * states, reference


def brute(states: Tensor, reference: Tensor) -> Tensor:
    """mean 2 (1 - cos), one token at a time."""
    cosines = [x @ r / (x.norm() * r.norm()) for x, r in zip(states, reference, strict=True)]
    return sum(2 * (1 - cosine) for cosine in cosines) / len(cosines)


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(2, 8))
def test_value_and_gradient_are_autograds(seed: int, n: int, d: int) -> None:
    states, reference = rows(seed, n, d)
    read = states.clone().requires_grad_()
    expected = brute(read, reference)
    (wanted,) = torch.autograd.grad(expected, read)
    value, gradient = anchored(states, reference)
    assert float(value) == pytest.approx(float(expected.detach()), abs=1e-12)
    torch.testing.assert_close(gradient, wanted, atol=1e-12, rtol=1e-9)


def test_the_gradient_is_that_of_finite_differences() -> None:
    states, reference = rows(0)
    _, gradient = anchored(states, reference)
    step = 1e-6
    for place in range(states.numel()):
        moved = torch.zeros_like(states)
        moved.view(-1)[place] = step
        slope = (anchored(states + moved, reference)[0] - anchored(states - moved, reference)[0]) / (2 * step)
        assert float(slope) == pytest.approx(float(gradient.view(-1)[place]), abs=1e-9)


def test_it_is_the_distance_of_rms_normalised_states_over_their_width() -> None:
    states, reference = rows(1)
    normed = [x / x.square().mean(1, keepdim=True).sqrt() for x in (states, reference)]
    expected = (normed[0] - normed[1]).square().sum(1).mean() / states.shape[1]
    assert float(anchored(states, reference)[0]) == pytest.approx(float(expected), abs=1e-12)


@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_do_not_enter_and_states_are_only_turned(seed: int, one: float, other: float) -> None:
    states, reference = rows(seed)
    value, gradient = anchored(states, reference)
    scaled, turned = anchored(one * states, other * reference)
    assert float(scaled) == pytest.approx(float(value), abs=1e-12)
    torch.testing.assert_close(one * turned, gradient, atol=1e-12, rtol=1e-9)
    assert float((gradient * states).sum(1).abs().max()) < 1e-12
    assert 0 <= float(value) <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_states_give_exactly_nothing(dtype: torch.dtype) -> None:
    states = rows(2)[0].to(dtype)
    value, gradient = anchored(states, states.clone())
    assert float(value) == 0
    assert not gradient.any()


def test_the_range_is_zero_to_four() -> None:
    states, _ = rows(3)
    assert float(anchored(states, -states)[0]) == pytest.approx(4)
    assert float(anchored(states, 2 * states)[0]) == pytest.approx(0, abs=1e-12)


def test_a_state_of_length_zero_is_not_moved() -> None:
    states, reference = rows(4)
    states[2] = 0
    value, gradient = anchored(states, reference)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[2].any()
    assert gradient[1].any()
