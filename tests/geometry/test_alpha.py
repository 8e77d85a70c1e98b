from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined, eigenvalues
from limberlm.geometry.alpha import alpha_band, alpha_curvature, alpha_r_squared, alpha_req, power_law
from tests.geometry import clouds

RANKS = torch.arange(1, 601, dtype=torch.float64)
EXPONENTIAL = torch.exp(-0.02 * RANKS)
RIPPLE = (1 + 0.3 * torch.sin(2 * math.pi * RANKS.log() / math.log(10))) / RANKS


def sampled(n: int, d: int, alpha: float, seed: int) -> Tensor:
    """Eigenvalues of n Gaussian rows with a power-law spectrum, from the smaller of the two products."""
    rows = clouds.normal(n, d, seed=seed) * clouds.power_law(d, alpha).sqrt()
    rows = rows - rows.mean(0)
    product = rows.T @ rows if d <= n else rows @ rows.T
    return eigenvalues(product, tolerance=1e-10)


@given(st.floats(0, 4), st.floats(1e-6, 1e6), st.integers(1, 50), st.integers(4, 500))
@settings(max_examples=100, deadline=None)
def test_power_laws_give_their_exponent_in_any_window(alpha: float, scale: float, first: int, width: int) -> None:
    last = min(first + width, len(RANKS))
    fit = power_law(scale * RANKS**-alpha, first, last)
    assert fit.alpha.item() == pytest.approx(alpha, abs=1e-9)
    assert fit.r_squared.item() == pytest.approx(1, abs=1e-9)
    assert not fit.curved


def test_the_exponent_1_3_returns_to_rounding() -> None:
    assert alpha_req(RANKS**-1.3).item() == pytest.approx(1.3, abs=1e-12)
    assert alpha_r_squared(RANKS**-1.3).item() == pytest.approx(1, abs=1e-12)
    assert alpha_curvature(RANKS**-1.3).item() == pytest.approx(0, abs=1e-11)


def test_an_exponential_spectrum_is_fitted_too_and_flagged() -> None:
    fit = power_law(EXPONENTIAL)
    assert fit.alpha.item() == pytest.approx(0.763623, abs=1e-6)
    assert fit.curved
    assert fit.curvature < 0
    assert fit.r_squared.item() == pytest.approx(0.9297, abs=1e-4)


@pytest.mark.parametrize(("first", "last", "alpha"), [(12, 100, 1.2902), (11, 100, 1.2671), (11, 500, 1.0387)])
def test_windows_that_share_a_citation_differ(first: int, last: int, alpha: float) -> None:
    assert alpha_req(RIPPLE, first, last).item() == pytest.approx(alpha, abs=1e-4)


def test_the_default_window_is_12_to_100_at_every_call() -> None:
    """The released code moves its caller's range, so that a second call starts at 13."""
    values = {alpha_req(RIPPLE).item() for _ in range(3)}
    assert values == {alpha_req(RIPPLE, 12, 100).item()}


@pytest.mark.parametrize("eigs", [EXPONENTIAL, RIPPLE, RANKS**-0.6 + 1e-3], ids=["exponential", "ripple", "floor"])
def test_the_fit_is_weighted_least_squares_by_numpy(eigs: Tensor) -> None:
    i = np.arange(12, 101)
    x, y, weights = np.log(i), eigs.log().numpy()[11:100], 1 / i
    line = np.polyfit(x, y, 1, w=np.sqrt(weights))
    residual = y - np.polyval(line, x)
    spread = y - np.average(y, weights=weights)
    fit = power_law(eigs)
    assert fit.alpha.item() == pytest.approx(-line[0], rel=1e-10)
    assert fit.r_squared.item() == pytest.approx(1 - (weights * residual**2).sum() / (weights * spread**2).sum())
    assert fit.curvature.item() == pytest.approx(np.polyfit(x, y, 2, w=np.sqrt(weights))[0], rel=1e-8)


@pytest.mark.parametrize("bend", [-0.3, -0.05, 0.05, 0.3])
def test_a_quadratic_term_is_found_and_flagged_when_large(bend: float) -> None:
    fit = power_law(torch.exp(-4 * RANKS.log() + bend * RANKS.log().square()))
    assert fit.curvature.item() == pytest.approx(bend, abs=1e-10)
    assert fit.curved == (abs(bend) > 0.12)


@given(st.floats(1e-6, 1e6), st.floats(1.0, 1e8), st.floats(0, 1), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_scale_order_head_and_tail_do_not_matter(scale: float, head: float, tail: float, seed: int) -> None:
    changed = scale * RIPPLE
    changed[:11] *= head
    changed[100:] *= tail
    shuffled = changed[torch.randperm(600, generator=torch.Generator().manual_seed(seed))]
    for metric in (alpha_req, alpha_r_squared, alpha_curvature):
        assert metric(shuffled).item() == pytest.approx(metric(RIPPLE).item(), rel=1e-10)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
@settings(max_examples=5, deadline=None)
def test_rotation_scale_translation_and_row_order_of_the_states_do_not_matter(
    seed: int, scale: float, offset: float
) -> None:
    rows = clouds.normal(300, 120, seed=seed) * clouds.power_law(120, 1.0).sqrt()
    changed = (scale * (rows @ clouds.rotation(120, seed) + offset)).flip(0)
    before, after = (eigenvalues(clouds.moments(x).covariance) for x in (rows, changed))
    assert alpha_req(after).item() == pytest.approx(alpha_req(before).item(), rel=1e-10)


def test_a_window_that_is_not_filled_is_never_shortened() -> None:
    for eigs, left in ((RANKS[:99], 99), (torch.cat([RANKS[:60], torch.zeros(100)]), 60)):
        for metric in (alpha_req, alpha_r_squared, alpha_curvature):
            with pytest.raises(Undefined, match=f"needs 100 eigenvalues above 1e-12 of the largest, there are {left}"):
                metric(eigs)
    dust = torch.cat([torch.ones(50), torch.full((100,), 1e-13)]).double()
    with pytest.raises(Undefined, match="there are 50"):
        alpha_req(dust)
    assert alpha_req(RANKS[:100]).isfinite()
    with pytest.raises(Undefined, match="zero trace"):
        alpha_req(torch.zeros(200))


@pytest.mark.parametrize(("first", "last"), [(0, 100), (12, 14), (100, 12)])
def test_what_is_no_window_is_refused(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="are no window") as caught:
        power_law(RANKS, first, last)
    assert not isinstance(caught.value, Undefined)


def test_bands_find_where_a_spectrum_steepens() -> None:
    i = torch.arange(1, 2049, dtype=torch.float64)
    eigs = torch.where(i <= 128, i**-0.5, 128 * i**-1.5)
    assert alpha_band(eigs, 32, 128).item() == pytest.approx(0.5, abs=1e-9)
    assert alpha_band(eigs, 512).item() == pytest.approx(1.5, abs=1e-9)
    assert alpha_band(eigs, 128, 512).item() == pytest.approx(1.5, abs=1e-9)
    assert alpha_req(eigs).item() == pytest.approx(0.5, abs=1e-9)


def test_the_open_band_ends_at_the_last_dimension_and_needs_an_octave() -> None:
    eigs = RANKS**-0.5 * (1 + 0.1 * RANKS.cos())
    assert torch.equal(alpha_band(eigs, 300), power_law(eigs, 300, 600).alpha)
    with pytest.raises(Undefined, match="from rank 301 on needs 602 dimensions, there are 600"):
        alpha_band(eigs, 301)
    eigs[-1] = 0
    with pytest.raises(Undefined, match="needs 600 eigenvalues"):
        alpha_band(eigs, 300)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_sampled_power_laws_are_not_called_curved(alpha: float) -> None:
    assert not any(power_law(sampled(1024, 256, alpha, seed)).curved for seed in range(5))


@pytest.mark.parametrize(
    ("n", "d", "alpha", "expected", "draws"),
    [
        (512, 256, 0.5, 0.545, 10),
        (1024, 256, 0.5, 0.505, 5),
        (512, 256, 1.0, 1.008, 10),
        (500, 2048, 1.0, 0.862, 2),
        (500, 2048, 0.5, 0.301, 2),
    ],
)
def test_the_bias_at_small_samples_has_either_sign(n, d, alpha, expected, draws) -> None:
    found = np.mean([alpha_req(sampled(n, d, alpha, seed)).item() for seed in range(draws)])
    assert found == pytest.approx(expected, abs=0.01)
