from __future__ import annotations

import math

import pytest
import torch

from limberlm.geometry import Undefined, effective_rank, eigenvalues, null, rankme, variance_share
from limberlm.geometry import participation_ratio as ratio
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
    with pytest.raises(Undefined, match="says nothing in 8 dimensions"):
        null.null_variance_share(100, 8, 8)
