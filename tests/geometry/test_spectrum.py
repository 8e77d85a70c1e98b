from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import (
    Moments,
    Undefined,
    effective_rank,
    eigenvalues,
    participation_ratio,
    participation_ratio_debiased,
    participation_ratio_debiased_replicates,
    rankme,
    stable_rank,
    variance_share,
)
from tests.geometry.clouds import blocks, moments, normal, power_law, rotation, sequences

PLUG_IN = [effective_rank, rankme, participation_ratio, stable_rank, lambda eigs: variance_share(eigs, 1)]

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
    assert close(effective_rank(eigs[1:]), 1000, 1e-9)


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
    for metric in PLUG_IN:
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
    isoscore = (d * used - 1) / (d - 1)
    ours = (participation_ratio(torch.tensor(values, dtype=torch.float64)).item() - 1) / (d - 1)
    assert ours == pytest.approx(isoscore, abs=1e-12)


def test_nothing_is_said_about_no_spread_or_malformed_spectra() -> None:
    for metric in PLUG_IN:
        with pytest.raises(Undefined, match="zero trace"):
            metric(torch.zeros(4))
        with pytest.raises(ValueError, match="finite and not negative"):
            metric(torch.tensor([1.0, math.nan]))
        with pytest.raises(ValueError, match="finite and not negative"):
            metric(torch.tensor([1.0, -1.0]))
    for k in (0, 4, 5):
        with pytest.raises(Undefined, match="says nothing in 4 dimensions"):
            variance_share(torch.ones(4), k)


def test_eigenvalues_are_those_of_the_symmetric_part_in_falling_order() -> None:
    eigs = power_law(20, 1.0)
    q = rotation(20, seed=0)
    torch.testing.assert_close(eigenvalues(q * eigs @ q.T), eigs, rtol=1e-12, atol=1e-14)
    skew = normal(20, 20, seed=1)
    torch.testing.assert_close(eigenvalues(q * eigs @ q.T + 0.1 * (skew - skew.T)), eigs)


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


@pytest.mark.parametrize("n", [5, 48])
def test_float32_products_of_few_rows_leave_no_false_directions(n: int) -> None:
    rows = normal(n, 256, seed=2).to(torch.float32)
    eigs = spectrum_of(rows)
    exact = spectrum_of(rows.double())
    assert int((eigs > 0).sum()) == int((exact > 0).sum()) == n - 1
    for metric in PLUG_IN:
        assert close(metric(eigs), metric(exact).item(), 1e-6)


# --- debiased participation ratio


def distinct_tuples(sizes: list[int], order: int) -> np.ndarray:
    """[order, tuples]: all ordered tuples of rows from distinct blocks."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    every = itertools.permutations(range(len(block)), order)
    return np.array([rows for rows in every if len({block[i] for i in rows}) == order]).T


def mean_over_quadruples(parts: list[Tensor]) -> float:
    """The definition, row by row."""
    x = torch.cat(parts).numpy()
    i, j, k, m = distinct_tuples([len(part) for part in parts], 4)
    left, right = x[i] - x[j], x[k] - x[m]
    above = ((left**2).sum(1) * (right**2).sum(1)).mean()
    return above / ((left * right).sum(1) ** 2).mean()


def means_over_tuples(parts: list[Tensor]) -> float:
    """The means over pairs, over triples and over quadruples, each on its own."""
    rows = torch.cat(parts).numpy()
    gram, sizes = rows @ rows.T, [len(part) for part in parts]

    def mean(order: int, term) -> float:
        return term(*distinct_tuples(sizes, order)).mean()

    quadruples = mean(4, lambda i, j, k, m: gram[i, j] * gram[k, m])
    square_of_trace = (
        mean(2, lambda i, j: gram[i, i] * gram[j, j])
        - 2 * mean(3, lambda i, j, k: gram[i, i] * gram[j, k])
        + quadruples
    )
    trace_of_square = (
        mean(2, lambda i, j: gram[i, j] ** 2) - 2 * mean(3, lambda i, j, k: gram[i, j] * gram[j, k]) + quadruples
    )
    return square_of_trace / trace_of_square


UNEVEN = [2, 1, 3, 2, 2, 1]


def uneven_parts(seed: int) -> list[Tensor]:
    rows = normal(sum(UNEVEN), 3, seed=seed) + torch.tensor([1.0, 0.0, -2.0])
    return list(rows.split(UNEVEN))


def test_debiased_ratio_equals_the_mean_over_quadruples_from_distinct_blocks() -> None:
    parts = uneven_parts(seed=3)
    assert close(participation_ratio_debiased([moments(p) for p in parts]), mean_over_quadruples(parts), 1e-12)


def test_with_equal_blocks_it_also_equals_the_means_over_pairs_triples_and_quadruples() -> None:
    parts = list((normal(12, 3, seed=3) + 1).chunk(6))
    assert close(participation_ratio_debiased([moments(p) for p in parts]), means_over_tuples(parts), 1e-12)
    assert means_over_tuples(parts) == pytest.approx(mean_over_quadruples(parts), rel=1e-12)


def test_replicates_equal_the_ratio_of_the_remaining_blocks() -> None:
    parts = [moments(p) for p in uneven_parts(seed=4)]
    replicates = participation_ratio_debiased_replicates(parts)
    for b, replicate in enumerate(replicates):
        assert close(replicate, participation_ratio_debiased(parts[:b] + parts[b + 1 :]).item(), 1e-12)


def test_one_row_per_block_equals_the_row_version_and_himeno_yamada() -> None:
    n, d = 30, 5
    x = normal(n, d, seed=5) + 1
    total, second = x.sum(0), x.T @ x
    square = x.square().sum(1)
    T, v, q = square.sum(), (square[:, None] * x).sum(0), square.square().sum()
    F = second.square().sum()
    off = total.square().sum() - T
    A2, A3 = F - q, total @ second @ total - F - 2 * total @ v + 2 * q
    A4 = off**2 - 4 * A3 - 2 * A2
    B2, B3 = T**2 - q, T * off - 2 * (total @ v - q)
    n2 = n * (n - 1)
    n3 = n2 * (n - 2)
    n4 = n3 * (n - 3)
    below = A2 / n2 - 2 * A3 / n3 + A4 / n4
    row_version = (B2 / n2 - 2 * B3 / n3 + A4 / n4) / below
    S = x.T.cov()
    Q = (x - x.mean(0)).square().sum(1).square().sum() / (n - 1)
    himeno_yamada = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * S.square().sum() + S.trace() ** 2 - n * Q)
    assert close(below, himeno_yamada.item(), 1e-10)
    assert close(participation_ratio_debiased(blocks(x, n)), row_version.item(), 1e-10)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-20, 20))
@settings(max_examples=30, deadline=None)
def test_debiased_ratio_ignores_rotation_scale_translation_and_the_shift_of_each_block(
    seed: int, scale: float, offset: float
) -> None:
    parts = normal(80, 6, seed=seed).split([4, 6, 20, 8, 12, 10, 5, 15])
    q = rotation(6, seed)
    plain = participation_ratio_debiased([moments(p) for p in parts])
    changed = [moments(scale * (p @ q + offset), torch.full((6,), float(b))) for b, p in enumerate(parts)]
    assert close(participation_ratio_debiased(changed[::-1]), plain.item(), 1e-9)


@pytest.mark.parametrize(("n", "expected", "naive"), [(128, (76.4, 80.4), 48.2), (32, (77, 84), 22)])
def test_debiased_ratio_finds_the_truth_where_the_naive_one_cannot(n: int, expected, naive: float) -> None:
    eigs = power_law(256, 0.7)
    clouds = [normal(n, 256, seed=seed) * eigs.sqrt() for seed in range(100)]
    debiased = [participation_ratio_debiased(blocks(cloud)).item() for cloud in clouds]
    assert participation_ratio(eigs).item() == pytest.approx(77.56, abs=0.01)
    assert expected[0] < np.mean(debiased) < expected[1]
    plain = [participation_ratio(spectrum_of(cloud)).item() for cloud in clouds[:20]]
    assert np.mean(plain) == pytest.approx(naive, abs=1)


@pytest.mark.parametrize(
    ("count", "tokens", "correlation", "naive"),
    [(128, 16, 0.0, 47.2), (128, 16, 0.5, 43.5), (512, 8, 0.5, 46.8), (64, 32, 0.8, 32.2)],
)
def test_debiased_ratio_survives_tokens_that_resemble_each_other(count, tokens, correlation, naive) -> None:
    eigs = power_law(128, 0.7)
    clouds = [sequences(count, tokens, eigs, correlation, seed) for seed in range(60)]
    debiased = [participation_ratio_debiased(blocks(cloud)).item() for cloud in clouds]
    assert np.mean(debiased) == pytest.approx(48.4, rel=0.02)
    plain = [participation_ratio(spectrum_of(cloud.flatten(0, 1))).item() for cloud in clouds[:20]]
    assert np.mean(plain) == pytest.approx(naive, abs=0.7)


def test_empty_blocks_drop_out_and_keep_their_place() -> None:
    parts = [moments(p) for p in uneven_parts(seed=6)]
    gapped = [*parts[:2], Moments.zeros(torch.zeros(3)), *parts[2:]]
    assert close(participation_ratio_debiased(gapped), participation_ratio_debiased(parts).item(), 1e-14)
    replicates = participation_ratio_debiased_replicates(gapped)
    assert torch.isnan(replicates).nonzero().tolist() == [[2]]
    torch.testing.assert_close(replicates[~torch.isnan(replicates)], participation_ratio_debiased_replicates(parts))


def test_debiased_ratio_gives_a_reason_where_it_has_no_value() -> None:
    with pytest.raises(Undefined, match="at least 4 blocks with rows, there are 3"):
        participation_ratio_debiased([*blocks(normal(9, 3, seed=7), 3), Moments.zeros(torch.zeros(3))])
    with pytest.raises(Undefined, match="at least 5 blocks with rows, there are 4"):
        participation_ratio_debiased_replicates(blocks(normal(12, 3, seed=7), 4))
    with pytest.raises(Undefined, match="all states are equal"):
        participation_ratio_debiased(blocks(torch.full((16, 3), 0.3), 8))
    with pytest.raises(Undefined, match="too few rows"):
        participation_ratio_debiased(blocks(torch.eye(4), 4))


@given(seed=st.integers(0, 1000), width=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_debiased_ratio_is_never_below_one(seed: int, width: int) -> None:
    parts = [moments(p) for p in normal(16, width, seed=seed).split([1, 3, 2, 5, 1, 4])]
    assert participation_ratio_debiased(parts).item() >= 1 - 1e-9
