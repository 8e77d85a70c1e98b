from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from limberlm.geometry import Moments, Undefined, effective_rank, eigenvalues, rankme
from limberlm.geometry.published import rank_sigma_normalised, rank_tracing_release, rankme_garrido
from tests.geometry.clouds import moments, normal, power_law, rotation


def as_published(rows: np.ndarray) -> float:
    """2210.02885: p_k = sigma_k / |sigma|_1 + 1e-7 over the min(n, d) singular values of the embeddings."""
    sigma = np.linalg.svd(rows, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    return math.exp(-(p * np.log(p)).sum())


def as_released(eigs: np.ndarray, rows: int) -> float:
    """2509.23024's code: explained-variance ratios, cut, renormalised, then 1e-7 added to each."""
    ratios = np.sort(eigs)[::-1] / eigs.sum()
    ratios = ratios[: min(2048, rows, len(eigs))]
    ratios = ratios / ratios.sum() + 1e-7
    return math.exp(-(ratios * np.log(ratios)).sum())


@pytest.mark.parametrize(("n", "d", "offset"), [(400, 30, 0.0), (400, 30, 2.0), (20, 90, 0.0), (20, 90, 2.0)])
def test_garrido_is_the_published_formula_on_the_singular_values_of_the_states(n: int, d: int, offset: float) -> None:
    rows = (normal(n, d, seed=0) * power_law(d, 0.7).sqrt()) @ rotation(d, seed=1) + offset
    for sums in (moments(rows), moments(rows, torch.full((d,), offset))):
        assert rankme_garrido(sums).item() == pytest.approx(as_published(rows.numpy()), rel=1e-6)


def test_garrido_does_not_centre() -> None:
    rows = normal(500, 30, seed=2)
    centred = rankme(eigenvalues(moments(rows).covariance)).item()
    assert rankme_garrido(moments(rows)).item() == pytest.approx(centred, rel=0.002)
    assert rankme_garrido(moments(rows + 10)).item() < 0.7 * centred
    changed = moments(7 * (rows + 10) @ rotation(30, seed=3))
    assert rankme_garrido(changed).item() == pytest.approx(rankme_garrido(moments(rows + 10)).item(), rel=1e-10)


@pytest.mark.parametrize(("alpha", "released"), [(0.0, 2050.780), (1.0, 281.808), (2.0, 5.13014)])
def test_the_release_caps_what_4096_dimensions_hold(alpha: float, released: float) -> None:
    last_digit = 0.5 * 10 ** -(5 if released < 10 else 3)
    assert rank_tracing_release(power_law(4096, alpha)).item() == pytest.approx(released, abs=1.01 * last_digit)


@pytest.mark.parametrize(("d", "excess"), [(512, 2.682e-4), (1024, 6.076e-4), (2048, 1.3576e-3)])
def test_the_added_constant_lifts_flat_spectra(d: int, excess: float) -> None:
    assert rank_tracing_release(torch.ones(d)).item() / d - 1 == pytest.approx(excess, rel=2e-4)


def test_the_added_constant_counts_empty_directions_unless_told_the_rows() -> None:
    eigs = torch.cat([torch.ones(10), torch.zeros(2038)])
    assert rank_tracing_release(eigs).item() / 10 - 1 == pytest.approx(3.2916e-3, rel=1e-4)
    assert rank_tracing_release(eigs, rows=11).item() == pytest.approx(10, rel=1e-5)


def test_the_release_on_four_directions() -> None:
    eigs = torch.tensor([1.0, 4.0, 1.0, 2.0])
    assert rank_tracing_release(eigs).item() == pytest.approx(3.363586414, abs=1e-9)
    assert effective_rank(eigs).item() == pytest.approx(3.363585662, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(100, 40), (30, 40), (2500, 2300)])
def test_the_release_step_by_step(n: int, d: int) -> None:
    eigs = power_law(d, 0.8) * 3
    assert rank_tracing_release(eigs, rows=n).item() == pytest.approx(as_released(eigs.numpy(), n), rel=1e-12)


@pytest.mark.parametrize(("alpha", "printed"), [(0.5, 0.958), (1.0, 0.779), (1.5, 0.445)])
def test_singular_value_weighting_over_d_in_closed_form(alpha: float, printed: float) -> None:
    i = np.arange(1, 1537)
    z = (i ** (-alpha / 2)).sum()
    closed = math.exp(math.log(z) + alpha / 2 * (i ** (-alpha / 2) * np.log(i)).sum() / z) / 1536
    assert rank_sigma_normalised(power_law(1536, alpha)).item() == pytest.approx(closed, rel=1e-12)
    assert closed == pytest.approx(printed, abs=5e-4)


@pytest.mark.parametrize(("alpha", "level"), [(0.52, 0.75), (0.63, 0.65)])
def test_the_levels_that_suggest_singular_values(alpha: float, level: float) -> None:
    """Twice the exponent under singular values gives what the exponent gives under eigenvalues."""
    found = rank_sigma_normalised(power_law(1536, 2 * alpha)).item()
    assert found == pytest.approx(effective_rank(power_law(1536, alpha)).item() / 1536, rel=1e-12)
    assert found == pytest.approx(level, abs=0.06)


def test_a_reason_where_there_is_no_value() -> None:
    with pytest.raises(Undefined, match="no rows"):
        rankme_garrido(Moments.zeros(torch.zeros(3)))
    with pytest.raises(Undefined, match="zero trace"):
        rankme_garrido(moments(torch.zeros(5, 3)))
    for metric in (rank_tracing_release, rank_sigma_normalised):
        with pytest.raises(Undefined, match="zero trace"):
            metric(torch.zeros(5))
    few = eigenvalues(moments(normal(10, 20, seed=4)).covariance)
    with pytest.raises(Undefined, match="only 9 of 20 eigenvalues are above zero"):
        rank_sigma_normalised(few)
    assert rank_sigma_normalised(few, rows=10).item() == pytest.approx(rankme(few).item() / 9, rel=1e-12)
