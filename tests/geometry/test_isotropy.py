from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive
from scipy.stats import vonmises_fisher
from torch import Tensor

from limberlm.geometry import (
    Directions,
    Undefined,
    centred_directions,
    effective_rank,
    eigenvalues,
    jackknife,
    mean_cosine,
    participation_ratio,
    variance_share,
)
from limberlm.geometry.catalog.isotropy import METRICS
from limberlm.geometry.massive import TokenNorms, massive_share, massive_share_of_trace
from tests.geometry.clouds import blocks, merged, moments, normal, power_law, rotation


def by_block(rows: Tensor, block: Tensor, count: int) -> list[Directions]:
    return centred_directions(rows, block, torch.zeros(rows.shape[1]), count)


def all_pairs(rows: Tensor) -> Tensor:
    """The mean cosine with one row per block: no pair is left out."""
    return mean_cosine([Directions(1, unit) for unit in torch.nn.functional.normalize(rows, dim=1)])


def counted(norms: Tensor) -> TokenNorms:
    """Norms of one block, all of them in the sample."""
    return TokenNorms(norms, torch.zeros(len(norms)), {0: norms}, {0: len(norms)})


def test_mean_cosines_equal_the_average_over_pairs() -> None:
    rows, block = normal(40, 7, seed=0) + 0.5, torch.arange(40) % 5
    cosines = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    other_block = block[:, None] != block
    expected = cosines[other_block].mean()
    torch.testing.assert_close(mean_cosine(by_block(rows, block, 5)), expected, rtol=1e-12, atol=0)
    expected = cosines[~torch.eye(40, dtype=torch.bool)].mean()
    torch.testing.assert_close(all_pairs(rows), expected, rtol=1e-12, atol=0)


def test_pairs_inside_a_block_do_not_count() -> None:
    same_within = torch.eye(4, dtype=torch.float64).repeat_interleave(10, 0)
    assert mean_cosine(by_block(same_within, torch.arange(40) // 10, 4)).item() == 0.0
    assert all_pairs(same_within).item() == pytest.approx(4 * 10 * 9 / (40 * 39))


@pytest.mark.parametrize("n", [2, 7, 50])
def test_unit_rows_of_zero_sum_have_the_least_mean_cosine(n: int) -> None:
    angles = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    assert all_pairs(rows).item() == pytest.approx(-1 / (n - 1), abs=1e-12)
    assert mean_cosine(by_block(rows, torch.arange(n), n)).item() == pytest.approx(-1 / (n - 1), abs=1e-12)


@given(seed=st.integers(0, 1000), offset=st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_rotation_row_scale_and_row_order_do_not_matter(seed: int, offset: float) -> None:
    rows, block = normal(30, 5, seed=seed) + offset, torch.arange(30) % 4
    changed = rows @ rotation(5, seed) * (0.1 + normal(30, 1, seed=seed + 1).abs())
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    before = mean_cosine(by_block(rows, block, 4))
    after = mean_cosine(by_block(changed[order], block[order], 4))
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("d", "kappa", "rows", "cosine", "rank"),
    [(64, 16, 20000, 0.0559, 63.995), (768, 768, 2000, 0.3822, 767.81)],
)
def test_a_von_mises_fisher_cloud_is_an_offset_with_full_rank(d, kappa, rows, cosine, rank) -> None:
    pole = np.eye(d)[0]
    sample = torch.from_numpy(vonmises_fisher(pole, kappa, seed=0).rvs(rows))
    assert all_pairs(sample).item() == pytest.approx(cosine, abs=0.002)
    resultant = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)
    assert resultant**2 == pytest.approx(cosine, abs=1e-4)
    along = 1 - (d - 1) / kappa * resultant - resultant**2
    population = torch.tensor([along] + [resultant / kappa] * (d - 1), dtype=torch.float64)
    assert effective_rank(population).item() == pytest.approx(rank, rel=1e-5)


def test_a_sample_of_it_has_full_rank_once_debiased() -> None:
    parts = blocks(torch.from_numpy(vonmises_fisher(np.eye(64)[0], 16, seed=0).rvs(20000)))
    whole = merged(parts)
    ranks = [effective_rank(eigenvalues(sums.covariance)).item() for sums in (whole, *map(whole.without, parts))]
    assert jackknife(ranks[0], ranks[1:], scale="log").corrected == pytest.approx(63.995, abs=0.005)


def test_centred_directions_equal_those_of_centred_rows_block_by_block() -> None:
    rows, block = normal(20, 6, seed=1), torch.arange(20) % 3
    mean = normal(6, seed=2)
    sums = centred_directions(rows, block, mean, blocks=4)
    for b, directions in enumerate(sums):
        expected = torch.nn.functional.normalize(rows[block == b] - mean, dim=1).sum(0)
        torch.testing.assert_close(directions.total, expected, rtol=1e-12, atol=1e-12)
    assert [directions.count for directions in sums] == [7, 7, 6, 0]
    torch.testing.assert_close(mean_cosine(sums), mean_cosine(sums[:3]))


def test_rows_equal_to_the_mean_have_no_direction() -> None:
    rows = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    (directions,) = centred_directions(rows, torch.zeros(2, dtype=torch.long), torch.tensor([1.0, 2.0]), 1)
    assert (directions.count, directions.total.tolist()) == (1, [0.0, 1.0])


def test_too_few_rows_are_undefined_with_the_reason() -> None:
    with pytest.raises(Undefined, match="two blocks with rows, there are 1"):
        mean_cosine([Directions(3, torch.ones(2)), Directions.zeros(2)])


# --- the signature of massive tokens and rogue dimensions (n = 4096, d = 512, lambda = 1/i, a fixed offset)

N, D = 4096, 512
FOURTH = 3
SEED = 2


def base_cloud(seed: int) -> Tensor:
    eigs = power_law(D, 1.0)
    return normal(N, D, seed=seed) * eigs.sqrt() + 0.5 * normal(D, seed=seed + 50) * eigs.mean().sqrt()


def massive_cloud(seed: int) -> Tensor:
    rows = base_cloud(seed)
    direction = normal(D, seed=seed + 70)
    rows[::256] = 100 * rows.norm(dim=1).mean() * direction / direction.norm()
    return rows


def rogue_cloud(seed: int) -> Tensor:
    rows = base_cloud(seed)
    rows[:, FOURTH] *= 30
    return rows


def offset_cloud(seed: int) -> Tensor:
    rows = base_cloud(seed)
    rows[:, 0] += 30 * power_law(D, 1.0).mean().sqrt()
    return rows


def rms(rows: Tensor) -> Tensor:
    return rows / rows.square().mean(1, keepdim=True).sqrt()


def rank_share(rows: Tensor) -> float:
    return effective_rank(eigenvalues(moments(rows, shift=rows.mean(0)).covariance)).item() / D


def standardised(rows: Tensor) -> Tensor:
    return (rows - rows.mean(0)) / rows.std(0)


def read(rows: Tensor) -> tuple[float, float, float, float]:
    """Raw cosine, centred cosine, effective rank / d, share of the top direction."""
    block = torch.randint(0, 16, (N,), generator=torch.Generator().manual_seed(0))
    sums = moments(rows, shift=rows.mean(0))
    eigs = eigenvalues(sums.covariance)
    raw = mean_cosine(by_block(rows, block, 16))
    centred = mean_cosine(centred_directions(rows, block, sums.mean, 16))
    return raw.item(), centred.item(), effective_rank(eigs).item() / D, variance_share(eigs, 1).item()


@pytest.mark.parametrize(
    ("cloud", "raw", "centred", "rank", "top", "rms_rank"),
    [
        (base_cloud, (0.21, 0.21), 0.00, 0.22, 0.15, 0.25),
        (massive_cloud, (0.21, 0.21), 0.16, 0.0024, 0.98, 0.25),
        (rogue_cloud, (0.03, 0.03), 0.00, 0.0025, 0.97, 0.007),
        (offset_cloud, (0.6, 0.7), 0.00, 0.22, 0.15, 0.30),
    ],
)
def test_signature_of_massive_tokens(cloud, raw, centred, rank, top, rms_rank) -> None:
    rows = cloud(SEED)
    raw_cosine, centred_cosine, ranks, top_share = read(rows)
    assert raw[0] - 0.03 < raw_cosine < raw[1] + 0.03
    assert centred_cosine == pytest.approx(centred, abs=0.03)
    assert ranks == pytest.approx(rank, rel=0.05)
    assert top_share == pytest.approx(top, abs=0.01)
    _, centred_cosine, ranks, _ = read(rms(rows))
    assert centred_cosine == pytest.approx(0.0, abs=0.03)
    assert ranks == pytest.approx(rms_rank, rel=0.05, abs=0.0005)  # 0.007 is given to one digit
    assert massive_share(counted(rows.norm(dim=1))).item() == (1 / 256 if cloud is massive_cloud else 0.0)


def test_a_rogue_dimension_goes_by_standardising_or_deleting_it() -> None:
    rows = rogue_cloud(SEED)
    assert rank_share(standardised(rms(rows))) == pytest.approx(0.47, rel=0.05)
    assert rank_share(standardised(rows)) == pytest.approx(0.94, rel=0.05)
    assert rank_share(rows[:, torch.arange(D) != FOURTH]) == pytest.approx(0.23, rel=0.05)


def test_base_cloud_has_the_participation_ratio_of_its_population() -> None:
    eigs = eigenvalues(moments(base_cloud(SEED)).covariance)
    assert participation_ratio(eigs).item() == pytest.approx(28, abs=2)


def test_massive_tokens_hold_the_trace_that_is_gone_without_them() -> None:
    rows = massive_cloud(SEED)
    norms = rows.norm(dim=1)
    massive = norms > counted(norms).threshold
    assert torch.equal(massive.nonzero()[:, 0], torch.arange(0, N, 256))
    share = massive_share_of_trace(rows[massive], moments(rows))
    centred = (rows - rows.mean(0)).square().sum(1)
    torch.testing.assert_close(share, centred[massive].sum() / centred.sum(), rtol=1e-12, atol=0)
    left, count = moments(rows[~massive]), int((~massive).sum())
    gone = 1 - left.trace * (count - 1) / (moments(rows).trace * (N - 1))
    assert 0.97 < share.item() < gone.item() < 0.99
    assert massive_share_of_trace(rows[:0], moments(rows)).item() == 0.0


def test_share_of_the_trace_gives_a_reason_where_it_has_no_value() -> None:
    with pytest.raises(Undefined, match="two rows, there are 1"):
        massive_share_of_trace(torch.ones(1, 2), moments(torch.ones(1, 2)))
    with pytest.raises(Undefined, match="all states are equal"):
        massive_share_of_trace(torch.ones(1, 2), moments(torch.ones(3, 2)))


def test_massive_tokens_are_counted_against_the_median() -> None:
    norms = torch.cat([torch.ones(97), torch.tensor([19.9, 20.1, 500.0])])
    assert massive_share(counted(norms)).item() == pytest.approx(0.02)
    assert massive_share(counted(7 * norms.double())).item() == pytest.approx(0.02)


def test_massive_tokens_give_a_reason_where_they_have_no_value() -> None:
    with pytest.raises(Undefined, match="no tokens"):
        massive_share(counted(torch.zeros(0)))
    with pytest.raises(Undefined, match="median token norm is zero"):
        massive_share(counted(torch.tensor([0.0, 0.0, 1.0])))


def test_records_of_this_family_read_states_as_they_say() -> None:
    conventions = {record.name: record.conventions for record in METRICS}
    assert conventions.pop("uniformity") == ("rms",)
    assert set(conventions.values()) == {("raw",)}
    assert [record.name for record in METRICS if record.suite == "full"] == ["uniformity"]
