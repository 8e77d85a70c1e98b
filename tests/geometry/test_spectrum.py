from __future__ import annotations

import itertools
import math

import dimensionality
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from IsoScore import IsoScore as package_of_isoscore  # noqa: N813 (a module)
from torch import Tensor

from limberlm.geometry import (
    Undefined,
    effective_rank,
    eigenvalues,
    participation_ratio,
    rankme,
    stable_rank,
    variance_share,
)
from limberlm.geometry.spectrum import (
    approximate_rank,
    effective_rank_normalised,
    head_removed_rank,
    isoscore,
    srank,
)
from tests.geometry.clouds import moments, normal, power_law, rotation

PLUG_IN = [effective_rank, rankme, participation_ratio, stable_rank, lambda eigs: variance_share(eigs, 1)]
EVERY = [
    *PLUG_IN,
    effective_rank_normalised,
    isoscore,
    lambda eigs: head_removed_rank(eigs, 1),
    lambda eigs: head_removed_rank(eigs, 2),
    srank,
    approximate_rank,
]

spectra = st.lists(st.floats(0, 1e6), min_size=2, max_size=40).filter(lambda values: sum(values) > 1e-3)


def spectrum_of(rows: Tensor) -> Tensor:
    return eigenvalues(moments(rows).covariance)


def close(value: Tensor, expected: float, relative: float = 1e-12) -> bool:
    return value.item() == pytest.approx(expected, rel=relative)


@pytest.mark.parametrize(
    ("d", "alpha", "rank", "sigma_rank", "participation"),
    [
        (512, 0.5, 409.555, 491.730, 281.653),
        (512, 1.0, 117.231, 409.555, 28.281),
        (512, 2.0, 5.056, 117.231, 2.494),
        (2048, 1.0, 281.363, 1587.451, 40.910),
        (4096, 1.0, 431.117, 3138.544, 48.108),
        (1536, 0.5, 0.779 * 1536, 0.958 * 1536, 0.487 * 1536),
        (1536, 1.0, 0.153 * 1536, 0.779 * 1536, 0.0248 * 1536),
        (1536, 1.5, 0.0126 * 1536, 0.445 * 1536, 0.00355 * 1536),
    ],
)
def test_power_laws_give_their_closed_forms(d, alpha, rank, sigma_rank, participation) -> None:
    eigs = power_law(d, alpha)
    i = np.arange(1, d + 1)
    z = (i**-alpha).sum()
    assert close(effective_rank(eigs), math.exp(math.log(z) + alpha * (i**-alpha * np.log(i)).sum() / z))
    assert close(participation_ratio(eigs), z**2 / (i ** (-2 * alpha)).sum())
    assert close(rankme(eigs), effective_rank(power_law(d, alpha / 2)).item())
    printed = 4e-3 if d == 1536 else 2e-4  # of the figures, by their number of digits
    assert close(effective_rank(eigs), rank, printed)
    assert close(rankme(eigs), sigma_rank, printed)
    assert close(participation_ratio(eigs), participation, printed)
    assert close(effective_rank_normalised(eigs), effective_rank(eigs).item() / d)


def test_geometric_spectrum() -> None:
    eigs = math.exp(-0.1) ** torch.arange(2000, dtype=torch.float64)
    assert close(effective_rank(eigs), 27.19414, 1e-6)
    assert close(participation_ratio(eigs), 20.01666, 1e-6)


@pytest.mark.parametrize(
    ("d", "k", "share", "rank", "participation"),
    [(1000, 10, 0.5, 198.99749, 39.6), (2048, 32, 0.9, 67.029468, 39.498433)],
)
def test_two_level_spectrum(d, k, share, rank, participation) -> None:
    eigs = torch.cat([torch.full((k,), share / k), torch.full((d - k,), (1 - share) / (d - k))]).double()
    assert close(effective_rank(eigs), rank, 1e-6)
    assert close(participation_ratio(eigs), participation, 1e-6)


@pytest.mark.parametrize(("share", "rank"), [(0.1, 693.7), (0.25, 312.0), (0.5, 63.2), (0.75, 9.87), (0.9, 2.76)])
def test_a_sink_direction_hides_the_rank_and_its_removal_gives_it_back(share: float, rank: float) -> None:
    bulk = torch.full((1000,), (1 - share) / 1000, dtype=torch.float64)
    eigs = torch.cat([torch.tensor([share], dtype=torch.float64), bulk])
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert close(effective_rank(eigs), math.exp(entropy) * 1000 ** (1 - share))
    assert close(effective_rank(eigs), rank, 2e-3)
    assert close(head_removed_rank(eigs, 1), 1000, 1e-9)


@pytest.mark.parametrize("metric", PLUG_IN[:4])
@pytest.mark.parametrize("k", [1, 7, 50])
def test_a_flat_spectrum_of_k_directions_reads_k_and_zero_columns_change_nothing(metric, k: int) -> None:
    flat = torch.full((k,), 3.0, dtype=torch.float64)
    assert close(metric(flat), k)
    assert torch.equal(metric(torch.cat([flat, torch.zeros(30)])), metric(flat)) or close(
        metric(torch.cat([flat, torch.zeros(30)])), metric(flat).item(), 1e-14
    )


@pytest.mark.parametrize(
    ("n", "rank", "participation"),
    [
        (64, 0.217, 0.197),
        (128, 0.386, 0.331),
        (256, 0.604, 0.498),
        (512, 0.778, 0.665),
        (1024, 0.882, 0.799),
        (4096, 0.969, 0.941),
    ],
)
def test_isotropic_rows_read_low_by_the_known_amount(n: int, rank: float, participation: float) -> None:
    eigs = [spectrum_of(normal(n, 256, seed=seed)) for seed in range(2)]
    assert np.mean([effective_rank(e).item() for e in eigs]) / 256 == pytest.approx(rank, abs=0.004)
    assert np.mean([participation_ratio(e).item() for e in eigs]) / 256 == pytest.approx(participation, abs=0.004)


@given(spectra)
@settings(max_examples=200, deadline=None)
def test_order_of_the_ranks(values: list[float]) -> None:
    eigs = torch.tensor(values, dtype=torch.float64)
    ladder = [stable_rank(eigs), participation_ratio(eigs), effective_rank(eigs), rankme(eigs)]
    ladder = [1.0, *(value.item() for value in ladder), float((eigs > 0).sum())]
    assert all(low <= high * (1 + 1e-12) for low, high in itertools.pairwise(ladder))


@given(spectra, st.floats(1e-6, 1e6), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_scale_and_order_of_the_spectrum_do_not_matter(values: list[float], scale: float, order) -> None:
    eigs = torch.tensor(values, dtype=torch.float64)
    order.shuffle(values)
    changed = scale * torch.tensor(values, dtype=torch.float64)
    for metric in PLUG_IN:
        assert close(metric(changed), metric(eigs).item(), 1e-10)


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100),
    offset=st.floats(-10, 10),
    copies=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_rotation_scale_translation_row_order_and_duplication_do_not_matter(
    seed: int, scale: float, offset: float, copies: int
) -> None:
    rows = normal(40, 8, seed=seed) * power_law(8, 1.0).sqrt()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    changed = (scale * rows @ rotation(8, seed) + offset * scale)[order].repeat(copies, 1)
    before, after = spectrum_of(rows), spectrum_of(changed)
    for metric in EVERY:
        assert close(metric(after), metric(before).item(), 1e-10)


@given(spectra)
@settings(max_examples=100, deadline=None)
def test_stable_rank_is_the_inverse_of_the_top_share_and_shares_add_up(values: list[float]) -> None:
    eigs = torch.tensor([*values, 0.0], dtype=torch.float64)
    assert close(stable_rank(eigs) * variance_share(eigs, 1), 1.0)
    shares = [variance_share(eigs, k).item() for k in range(1, len(eigs))]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise(shares))
    assert shares[-1] == pytest.approx(1.0)


@given(spectra)
@settings(max_examples=100, deadline=None)
def test_isoscore_is_a_view_of_the_participation_ratio(values: list[float]) -> None:
    """The construction of 2108.07344, steps 3 to 7, on the principal variances."""
    eigs = np.array(values)
    d = len(eigs)
    normalised = math.sqrt(d) * eigs / np.linalg.norm(eigs)
    defect = np.linalg.norm(normalised - 1) / math.sqrt(2 * (d - math.sqrt(d)))
    used = (d - defect**2 * (d - math.sqrt(d))) ** 2 / d**2
    published = (d * used - 1) / (d - 1)
    ours = isoscore(torch.tensor(values, dtype=torch.float64)).item()
    assert ours == pytest.approx(published, abs=1e-12)


@pytest.mark.parametrize(("n", "d", "alpha"), [(400, 16, 0.0), (400, 60, 0.7), (50, 120, 1.5)])
def test_isoscore_equals_its_package(n: int, d: int, alpha: float) -> None:
    rows = normal(n, d, seed=1) @ (rotation(d, seed=2) * power_law(d, alpha).sqrt()).T + 1
    package = package_of_isoscore.IsoScore(rows.numpy()).item()  # takes sqrt(d) in float32
    assert isoscore(spectrum_of(rows)).item() == pytest.approx(package, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(40, 100), (100, 40)])
def test_the_participation_ratio_equals_the_naive_one_of_dimensionality(n: int, d: int) -> None:
    rows = normal(n, d, seed=3) * power_law(d, 0.7).sqrt() + 2
    package = dimensionality.participation_ratio(rows.numpy(), return_all=True)["naive"]
    assert close(participation_ratio(spectrum_of(rows)), package, 1e-10)


@given(spectra, st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_the_rank_without_a_head_is_the_effective_rank_of_the_rest(values: list[float], k: int) -> None:
    eigs = torch.tensor([*values, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    rest = eigs.sort(descending=True).values[k:]
    if rest.sum() > 1e-11 * eigs.sum():
        assert close(head_removed_rank(eigs, k), effective_rank(rest).item())
        assert 1 <= head_removed_rank(eigs, k).item() <= (len(eigs) - k) * (1 + 1e-12)


def test_nothing_is_left_of_a_spectrum_that_is_all_head() -> None:
    for eigs in (torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-14, 1e-14]).double(), torch.ones(2)):
        with pytest.raises(Undefined, match="no variance outside the 4 largest directions"):
            head_removed_rank(eigs, 4)
    with pytest.raises(ValueError, match="cannot remove -1 directions"):
        head_removed_rank(torch.ones(4), -1)


def test_a_share_of_d_needs_more_rows_than_dimensions_or_their_number() -> None:
    for n in (5, 30, 64):
        eigs = spectrum_of(normal(n, 64, seed=4))
        with pytest.raises(Undefined, match=f"only {n - 1} of 64 eigenvalues are above zero"):
            effective_rank_normalised(eigs)
        assert close(effective_rank_normalised(eigs, rows=n), effective_rank(eigs).item() / (n - 1))
    eigs = spectrum_of(normal(65, 64, seed=4))
    assert torch.equal(effective_rank_normalised(eigs), effective_rank_normalised(eigs, rows=65))
    assert close(effective_rank_normalised(eigs), effective_rank(eigs).item() / 64)
    with pytest.raises(Undefined, match="two rows, there are 1"):
        effective_rank_normalised(torch.ones(4), rows=1)
    with pytest.raises(Undefined, match="zero trace"):
        effective_rank_normalised(torch.zeros(4))


@pytest.mark.parametrize("k", [1, 7, 99, 100, 101, 200, 1000])
def test_of_k_equal_directions_99_percent_are_needed_for_99_percent(k: int) -> None:
    flat = torch.cat([torch.zeros(7), torch.full((k,), 0.1)]).double()
    assert srank(flat).item() == approximate_rank(flat).item() == -(-99 * k // 100)


@pytest.mark.parametrize("q", [0.3, 0.77, 0.95])
def test_directions_that_hold_99_percent_of_a_geometric_spectrum(q: float) -> None:
    eigs = q ** torch.arange(2000, dtype=torch.float64)
    assert approximate_rank(eigs).item() == math.ceil(math.log(0.01) / math.log(q))
    assert srank(eigs).item() == math.ceil(2 * math.log(0.01) / math.log(q))


@given(spectra)
@settings(max_examples=100, deadline=None)
def test_singular_values_never_need_fewer_directions_than_variances(values: list[float]) -> None:
    eigs = torch.tensor(values, dtype=torch.float64)
    assert 1 <= approximate_rank(eigs) <= srank(eigs) <= int((eigs > 0).sum())


def test_nothing_is_said_about_no_spread_or_malformed_spectra() -> None:
    with pytest.raises(Undefined, match="two dimensions"):
        isoscore(torch.ones(1))
    for metric in EVERY:
        with pytest.raises(Undefined, match="zero trace"):
            metric(torch.zeros(4))
        with pytest.raises(ValueError, match="finite and not negative"):
            metric(torch.tensor([1.0, math.nan]))
        with pytest.raises(ValueError, match="finite and not negative"):
            metric(torch.tensor([1.0, -1.0]))
        with pytest.raises(ValueError, match=r"these have shape \(4, 4\)"):
            metric(torch.eye(4))  # the covariance in place of its eigenvalues: its entries would pass for them
    for k in (0, 4, 5):
        with pytest.raises(Undefined, match="says nothing in 4 dimensions"):
            variance_share(torch.ones(4), k)


@pytest.mark.parametrize("n", [5, 48])
def test_float32_products_of_few_rows_leave_no_false_directions(n: int) -> None:
    rows = normal(n, 256, seed=2).to(torch.float32)
    eigs = spectrum_of(rows)
    exact = spectrum_of(rows.double())
    assert int((eigs > 0).sum()) == int((exact > 0).sum()) == n - 1
    for metric in PLUG_IN:
        assert close(metric(eigs), metric(exact).item(), 1e-6)
