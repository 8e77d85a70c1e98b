"""Gradient readiness: unbiased where it says so, and what one step on a quadratic gains."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from limberlm.outcomes.plasticity import gradient_products, gradient_readiness

P, K = 40, 16
# a gradient and a covariance whose ||gb||^2, tr C, tr C^2 and gb'C gb are those behind outcomes.md 3.4
SPREAD = np.array([0.294827] * 8 + [0.0854433] * 32)
MEAN = np.zeros(P)
MEAN[0], MEAN[-1] = 0.3205794, 0.4898253
TRUTH, TRACE = 0.3427, 5.0928


def gradients(rng: np.random.Generator, draws: int, mean: np.ndarray = MEAN) -> np.ndarray:
    return mean + rng.normal(size=(draws, K, P)) * np.sqrt(SPREAD)


def test_all_pairs_are_unbiased_and_better_than_halves_where_the_naive_square_is_biased() -> None:
    rng = np.random.default_rng(0)
    g = gradients(rng, 1000)
    found = [gradient_readiness(own @ own.T, examples=1, at=1) for own in g]
    strength = np.array([each["strength"].value for each in found])
    noise = np.array([each["noise"].value for each in found])
    halves = (g[:, : K // 2].mean(1) * g[:, K // 2 :].mean(1)).sum(1)
    error = strength.std() / np.sqrt(len(g))
    assert strength.mean() == pytest.approx(TRUTH, abs=3 * error)
    assert noise.mean() == pytest.approx(TRACE, abs=3 * noise.std() / np.sqrt(len(g)))
    assert (strength.std(), halves.std()) == pytest.approx((0.143, 0.165), abs=0.01)
    assert (g.mean(1) ** 2).sum(1).mean() == pytest.approx(0.661, abs=0.02)
    covered = [each["strength"].low < TRUTH < each["strength"].high for each in found]
    assert 0.93 < np.mean(covered) < 0.99


@pytest.mark.parametrize("at", [1, 4, 10])
def test_readiness_is_near_that_of_the_true_gradient(at: int) -> None:
    rng = np.random.default_rng(1)
    found = [gradient_readiness(own @ own.T, examples=1, at=at)["readiness"] for own in gradients(rng, 600)]
    truth = TRUTH**2 / (TRUTH + TRACE / at)
    plain, corrected = np.mean([each.value for each in found]), np.mean([np.mean(each.items) for each in found])
    assert abs(corrected - truth) < 0.5 * abs(plain - truth) + 0.05 * truth
    assert plain == pytest.approx(truth, rel=0.25)  # the square of an estimate is biased up; said on the page


def test_without_a_gradient_readiness_is_about_zero_where_the_plain_product_is_not() -> None:
    rng = np.random.default_rng(2)
    found = [gradient_readiness(own @ own.T, 1, 4) for own in gradients(rng, 600, np.zeros(P))]
    signed = np.array([each["readiness"].value for each in found])
    product = np.array([each["strength"].value * each["reliability"].value for each in found])
    error = signed.std() / np.sqrt(len(signed))
    assert abs(signed.mean()) < 4 * error < 0.5 * product.mean()


@settings(deadline=None)
@given(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9), st.integers(1, 16))
def test_readiness_rises_with_strength_also_below_zero(one: float, other: float, at: int) -> None:
    low, high = sorted((one, other))

    def readiness(strength: float) -> float:
        gram = np.full((K, K), strength) + (20 - strength) * np.eye(K)
        return gradient_readiness(gram, 1, at)["readiness"].value

    assert readiness(low) <= readiness(high) + 1e-12


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(4, 9))
def test_the_numbers_are_those_of_the_gradients_themselves(seed: int, count: int) -> None:
    g = np.random.default_rng(seed).normal(1, 1, size=(count, 5))
    found = gradient_readiness(g @ g.T, examples=8, at=32)
    strength = (np.square(g.sum(0)).sum() - np.square(g).sum()) / (count * (count - 1))
    noise = np.square(g).sum() / count - strength
    reliability = strength / (strength + noise * 8 / 32)
    values = [found[name].value for name in ("strength", "noise", "reliability")]
    assert values == pytest.approx([strength, noise, reliability], rel=1e-9)
    assert noise == pytest.approx(g.var(0, ddof=1).sum(), rel=1e-9)  # tr Cov of a micro-batch
    for name in ("strength", "noise"):
        assert np.mean(found[name].items) == pytest.approx(found[name].value, rel=1e-9, abs=1e-9)
    without = gradient_readiness(g[1:] @ g[1:].T, 8, 32)["readiness"].value if count > 4 else None
    if without is not None:
        expected = count * found["readiness"].value - (count - 1) * without
        assert found["readiness"].items[0] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0.1, 10), st.integers(1, 5))
def test_only_ratios_of_batch_sizes_count_and_strength_goes_with_the_square_of_scale(scale: float, times: int) -> None:
    g = np.random.default_rng(5).normal(0.5, 1, size=(6, 5))
    one, other = gradient_readiness(g @ g.T, 4, 8), gradient_readiness(scale**2 * g @ g.T, 4 * times, 8 * times)
    for name, power in (("strength", 2), ("noise", 2), ("reliability", 0), ("readiness", 2)):
        assert other[name].value == pytest.approx(scale**power * one[name].value, rel=1e-9)


def test_a_second_moment_that_cannot_be_is_undefined() -> None:
    gram = np.full((4, 4), -0.3) + 1.3 * np.eye(4)
    found = gradient_readiness(gram, examples=1, at=100)
    assert found["strength"].value == pytest.approx(-0.3)
    assert np.isnan([found["reliability"].value, found["readiness"].value]).all()


def test_too_few_gradients_are_refused() -> None:
    for gram in (np.eye(3), np.ones((5, 4))):
        with pytest.raises(ValueError, match="at least 4 gradients"):
            gradient_readiness(gram, 1, 1)
    with pytest.raises(ValueError, match="at least 4 gradients"):
        gradient_readiness(np.eye(5), 1, 1, np.eye(4))


# --- a quadratic, where the step and its gain are known


def pairs_of_noise() -> np.ndarray:
    """2 P gradients whose mean is MEAN and whose covariance is SPREAD, exactly."""
    noise = np.diag(np.sqrt(SPREAD * P))
    return np.concatenate([MEAN + noise, MEAN - noise])


def expected_decrease(step: float, hessian: np.ndarray) -> float:
    """Mean over the gradients of f(0) - f(-step g) for f(x) = MEAN'x + x'Hx/2, computed point by point."""
    moves = -step * pairs_of_noise()
    return -float(np.mean(moves @ MEAN + 0.5 * np.einsum("ki,ij,kj->k", moves, hessian, moves)))


def test_the_best_step_and_gain_on_a_quadratic_are_the_formulas() -> None:
    smoothness = 2.0
    best = minimize_scalar(lambda step: -expected_decrease(step, smoothness * np.eye(P)), bounds=(0, 1))
    assert (best.x, -best.fun) == pytest.approx((0.0315, 0.005397), rel=2e-3)
    second = TRUTH + TRACE
    assert best.x == pytest.approx(TRUTH / (smoothness * second), rel=1e-3)
    assert -best.fun == pytest.approx(TRUTH**2 / (2 * smoothness * second), rel=1e-3)
    # the same from the estimator: exact products of 4 gradients with this strength and this noise
    gram = np.full((4, 4), TRUTH) + TRACE * np.eye(4)
    found = gradient_readiness(gram, 1, 1, smoothness * gram)
    assert found["readiness"].value / (2 * smoothness) == pytest.approx(-best.fun, rel=1e-3)
    assert found["gain"].value == pytest.approx(-best.fun, rel=1e-3)
    assert found["best_step"].value == pytest.approx(best.x, rel=1e-3)


def test_the_directional_form_knows_a_curvature_that_is_not_the_same_everywhere() -> None:
    hessian = np.diag(np.linspace(0.1, 4.0, P))
    best = minimize_scalar(lambda step: -expected_decrease(step, hessian), bounds=(0, 1))
    rng = np.random.default_rng(7)
    names = ("strength", "curvature")
    totals = dict.fromkeys(names, 0.0)
    draws = 200
    for own in gradients(rng, draws):
        found = gradient_readiness(own @ own.T, 1, 1, own @ hessian @ own.T)
        for name in names:
            totals[name] += found[name].value / draws
    curvature = np.trace(hessian @ np.diag(SPREAD)) + MEAN @ hessian @ MEAN
    assert totals["curvature"] == pytest.approx(curvature, rel=0.03)
    assert TRUTH**2 / (2 * curvature) == pytest.approx(-best.fun, rel=1e-3)
    assert TRUTH / curvature == pytest.approx(best.x, rel=1e-3)


def test_products_of_a_quadratics_gradients_and_hessian() -> None:
    rng = np.random.default_rng(8)
    x = torch.tensor(rng.normal(size=4), requires_grad=True)
    unused = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    roots = [torch.tensor(rng.normal(size=(4, 4))) for _ in range(5)]
    hessians = [root @ root.T for root in roots]
    losses = [partial(lambda h: 0.5 * x @ h @ x, h) for h in hessians]
    counted: list[int] = []
    gram, curved = gradient_products(losses, [x, unused], curvature=True, stepped=lambda: counted.append(1))
    g = np.array([(h @ x).detach().numpy() for h in hessians])
    assert gram == pytest.approx(g @ g.T, rel=1e-12)
    assert curved is not None
    for j in range(5):
        for k in range(5):
            assert curved[j, k] == pytest.approx(float(g[j] @ hessians[(k + 1) % 5].numpy() @ g[k]), rel=1e-9)
    assert len(counted) == 5
    assert gradient_products(losses, [x], curvature=False)[1] is None


def test_no_batch_meets_itself_in_the_curvature() -> None:
    count = 5
    curved = np.arange(25.0).reshape(count, count)
    found = gradient_readiness(np.eye(count), 1, 2, curved)["curvature"]
    own = np.mean([curved[k, k] for k in range(count)])
    between = np.mean([curved[j, k] for k in range(count) for j in range(count) if j not in (k, (k + 1) % count)])
    assert found.value == pytest.approx(between + (own - between) / 2)
    # without batch 2: neither its gradient nor its Hessian, which column 1 holds
    kept = [0, 3, 4]
    own = np.mean([curved[k, k] for k in kept])
    between = np.mean([curved[j, k] for k in kept for j in (0, 1, 3, 4) if j not in (k, (k + 1) % count)])
    assert found.items[2] == pytest.approx(count * found.value - (count - 1) * (between + (own - between) / 2))
