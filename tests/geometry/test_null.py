from __future__ import annotations

import math

import pytest
import torch

from limberlm.geometry import Undefined, effective_rank, eigenvalues, null, rankme, variance_share
from limberlm.geometry import participation_ratio as ratio
from limberlm.geometry.coordinates import mean_share, top_dimension_share
from limberlm.geometry.published import rank_sigma_normalised, rank_tracing_release, rankme_garrido
from limberlm.geometry.spectrum import (
    approximate_rank,
    effective_rank_normalised,
    head_removed_rank,
    isoscore,
    srank,
)
from tests.geometry.clouds import moments, normal

SIZES = [(65, 256), (129, 128), (257, 128), (1281, 128)]
EVERY = [
    null.null_effective_rank,
    null.null_rankme,
    null.null_participation_ratio,
    null.null_participation_ratio_debiased,
    null.null_stable_rank,
    null.null_mean_cosine,
    null.null_mean_cosine_centred,
    null.null_effective_rank_normalised,
    null.null_rank_sigma_normalised,
    null.null_isoscore,
    lambda n, d: null.null_head_removed_rank(n, d, 1),
    null.null_srank,
    null.null_approximate_rank,
    null.null_rankme_garrido,
    null.null_rank_tracing_release,
    null.null_top_dimension_share,
    null.null_mean_share,
]


@pytest.fixture(scope="module")
def samples() -> dict[tuple[int, int], list[torch.Tensor]]:
    return {(n, d): [eigenvalues(moments(normal(n, d, seed=seed)).covariance) for seed in range(12)] for n, d in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_nulls_equal_the_average_over_isotropic_samples(samples, size: tuple[int, int]) -> None:
    eigs, (n, d) = samples[size], size

    def average(metric) -> float:
        return sum(metric(e).item() for e in eigs) / len(eigs)

    assert average(effective_rank) == pytest.approx(null.null_effective_rank(n, d), rel=0.003)
    assert average(rankme) == pytest.approx(null.null_rankme(n, d), rel=0.004)
    assert 1 / average(lambda e: 1 / ratio(e)) == pytest.approx(null.null_participation_ratio(n, d), rel=0.005)
    assert average(lambda e: variance_share(e, 1)) == pytest.approx(null.null_variance_share(n, d, 1), rel=0.02)
    for k in (8, 32):
        expected = null.null_variance_share(n, d, k)
        assert average(lambda e, k=k: variance_share(e, k)) == pytest.approx(expected, rel=0.01)
    for k in (0, 1, 2, 8, 32):
        expected = null.null_head_removed_rank(n, d, k)
        assert average(lambda e, k=k: head_removed_rank(e, k)) == pytest.approx(expected, rel=0.004)
    assert average(isoscore) == pytest.approx(null.null_isoscore(n, d), rel=0.005)
    assert average(srank) == pytest.approx(null.null_srank(n, d), abs=1)
    assert average(approximate_rank) == pytest.approx(null.null_approximate_rank(n, d), abs=1)
    released = average(lambda e: rank_tracing_release(e, rows=n))
    assert released == pytest.approx(null.null_rank_tracing_release(n, d), rel=0.003)
    if n > d:
        normalised = null.null_effective_rank_normalised(n, d)
        assert average(effective_rank_normalised) == pytest.approx(normalised, rel=0.003)
        assert average(rank_sigma_normalised) == pytest.approx(null.null_rank_sigma_normalised(n, d), rel=0.004)


@pytest.mark.parametrize(("n", "d"), [(12, 5), (40, 64), (200, 16)])
def test_nulls_of_the_mean_and_of_the_coordinates_equal_the_average(n: int, d: int) -> None:
    sums = [moments(normal(n, d, seed=seed)) for seed in range(300)]

    def average(metric) -> float:
        return sum(metric(m).item() for m in sums) / len(sums)

    assert average(top_dimension_share) == pytest.approx(null.null_top_dimension_share(n, d), rel=0.01)
    assert average(mean_share) == pytest.approx(null.null_mean_share(n, d), rel=0.06)
    assert average(rankme_garrido) == pytest.approx(null.null_rankme_garrido(n, d), rel=0.02)


@pytest.mark.parametrize(("n", "d"), [(3, 1), (3, 2), (2, 5), (1001, 10), (100_001, 1024)])
def test_the_null_share_of_the_top_coordinate_is_a_share(n: int, d: int) -> None:
    assert 1 / d <= null.null_top_dimension_share(n, d) * (1 + 1e-12) <= 1 + 1e-9


def test_the_null_share_of_the_top_coordinate_of_two_has_a_closed_form() -> None:
    """With n = 3 each variance is exponential, and the larger of two holds 3/4 of their sum."""
    assert null.null_top_dimension_share(3, 2) == pytest.approx(0.75, rel=1e-9)
    assert null.null_top_dimension_share(3, 4) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, rel=1e-9)


def test_the_capped_null_is_that_of_the_top_part_of_the_law() -> None:
    assert null.null_rank_tracing_release(20_000, 2048) == null.null_effective_rank(20_000, 2048)
    eigs = eigenvalues(moments(normal(301, 100, seed=0)).covariance)
    capped = effective_rank(eigs[:60]).item()
    assert null.null_rank_tracing_release(301, 100, kept=60) == pytest.approx(capped, rel=0.005)


def test_participation_ratio_null_is_exact_for_the_harmonic_mean() -> None:
    n, d, draws = 6, 3, 40_000
    rows = normal(draws, n, d, seed=0)
    rows = rows - rows.mean(1, keepdim=True)
    second = rows.transpose(1, 2) @ rows
    inverse = second.square().sum((1, 2)) / second.diagonal(dim1=1, dim2=2).sum(1) ** 2
    assert 1 / inverse.mean().item() == pytest.approx(null.null_participation_ratio(n, d), rel=0.003)


@pytest.mark.parametrize(
    ("c", "expected"),
    [(1, 0.8050), (0.5, 0.9261), (0.25, 0.9662), (0.1, 0.9871), (0.05, 0.9937), (0.01, 0.9987)],
)
def test_rankme_null_by_aspect_ratio(c: float, expected: float) -> None:
    d = 100
    assert null.null_rankme(round(d / c) + 1, d) / d == pytest.approx(expected, abs=6e-5)
    assert null.null_rankme(d + 1, round(d / c)) / d == pytest.approx(expected, abs=6e-5)


def test_rankme_null_at_equal_sizes_has_a_closed_form() -> None:
    assert null.null_rankme(65, 64) == pytest.approx(64 * 2 / (3 * math.pi) * math.exp(4 / 3), rel=1e-9)


def test_variance_share_null_tends_to_the_edge_of_the_law_and_fills_up_to_one() -> None:
    n, d = 40_001, 10_000
    edge = (1 + math.sqrt(d / (n - 1))) ** 2 / d
    assert null.null_variance_share(n, d, 1) == pytest.approx(edge, rel=0.002)
    assert null.null_stable_rank(n, d) == pytest.approx(1 / edge, rel=0.002)
    assert null.null_variance_share(1001, 100, 99) == pytest.approx(1, abs=0.005)
    assert null.null_variance_share(5, 100, 8) == 1.0


@pytest.mark.parametrize(("n", "d"), [(2, 64), (3, 64), (64, 2)])
def test_nulls_of_tiny_samples_stay_in_range(n: int, d: int) -> None:
    bound = min(n - 1, d)
    for function in (null.null_effective_rank, null.null_rankme, null.null_participation_ratio):
        assert 1 <= function(n, d) <= bound + 0.02  # the law is asymptotic
    assert null.null_effective_rank(2, 64) == 1.0
    assert null.null_participation_ratio(2, 64) == 1.0


def test_debiased_and_cosine_nulls_do_not_depend_on_the_sample() -> None:
    assert null.null_participation_ratio_debiased(20, 64) == 64.0
    assert null.null_mean_cosine(20, 64) == 0.0
    assert null.null_mean_cosine_centred(21, 64) == -0.05


def test_no_null_without_two_rows() -> None:
    for function in EVERY:
        with pytest.raises(Undefined, match="no null value for 1 rows in 4 dimensions"):
            function(1, 4)
    for function in (null.null_effective_rank_normalised, null.null_rank_sigma_normalised):
        with pytest.raises(Undefined, match="share of 8 dimensions with 8 rows"):
            function(8, 8)
    with pytest.raises(Undefined, match="two dimensions"):
        null.null_isoscore(8, 1)
    with pytest.raises(Undefined, match="outside the 7 largest directions"):
        null.null_head_removed_rank(8, 8, 7)
    with pytest.raises(Undefined, match="says nothing in 8 dimensions"):
        null.null_variance_share(100, 8, 8)
