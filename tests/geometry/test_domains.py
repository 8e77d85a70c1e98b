from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined
from limberlm.geometry.domains import (
    RIDGE,
    DomainSums,
    Pooled,
    domain_probe_accuracy,
    domain_probe_correct,
    domain_separability,
    homogeneity_between,
    homogeneity_within,
    null_domain_probe_accuracy,
    null_domain_separability,
    null_homogeneity,
)
from tests.geometry.clouds import normal, rotation

D, K = 6, 4


def labels(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(0, K, (rows,), generator=torch.Generator().manual_seed(seed))


def apart(rows: int, seed: int, gap: float, d: int = D) -> tuple[Tensor, Tensor]:
    """Rows of K domains with means `gap` away from the origin."""
    domain = torch.arange(rows) % K
    return normal(rows, d, seed=seed) + gap * normal(K, d, seed=seed + 500)[domain], domain


def sums_of(rows: Tensor, domain: Tensor, shift: float = 0.0) -> DomainSums:
    sums = DomainSums.zeros(torch.full((rows.shape[1],), shift), K)
    sums.update(rows, domain)
    return sums


def assert_same(left: DomainSums, right: DomainSums, tolerance: float = 1e-12) -> None:
    assert torch.equal(left.counts, right.counts)
    right = right.shifted(left.shift)
    torch.testing.assert_close(left.totals, right.totals, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(left.squares, right.squares, rtol=tolerance, atol=tolerance)


# --- running sums


@given(cuts=st.lists(st.integers(0, 40), max_size=6), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_any_split_and_order_of_shards_gives_the_sums_of_the_whole(cuts: list[int], order) -> None:
    rows, domain = normal(40, D, seed=0), labels(40)
    edges = [0, *sorted(cuts), 40]
    shards = [
        sums_of(rows[a:b], domain[a:b], shift)
        for shift, (a, b) in zip(range(9), itertools.pairwise(edges), strict=False)
    ]
    order.shuffle(shards)
    whole = shards[0]
    for shard in shards[1:]:
        whole = whole.merge(shard)
    assert_same(whole, sums_of(rows, domain), tolerance=1e-11)


def test_shifted_sums_equal_sums_taken_about_that_shift() -> None:
    rows, domain = normal(30, D, seed=1), labels(30)
    moved, direct = sums_of(rows, domain).shifted(torch.full((D,), 2.0)), sums_of(rows, domain, shift=2.0)
    assert torch.equal(moved.shift, direct.shift)
    assert_same(moved, direct)


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_without_a_block_is_the_sum_of_the_others(shift: float) -> None:
    rows, domain = normal(50, D, seed=2), labels(50)
    block = sums_of(rows[:20], domain[:20], shift)
    assert_same(sums_of(rows, domain).without(block), sums_of(rows[20:], domain[20:]))


def test_no_rows_change_nothing_and_float32_rows_are_summed_in_float64() -> None:
    sums = sums_of(normal(9, D, seed=3), labels(9))
    before = sums.totals.clone()
    sums.update(torch.zeros(0, D), torch.zeros(0, dtype=torch.long))
    assert torch.equal(sums.totals, before)
    rows = 1000 + normal(999, D, seed=4).float()
    expected = torch.stack([rows[labels(999) == k].double().sum(0) for k in range(K)])
    torch.testing.assert_close(sums_of(rows, labels(999)).totals, expected, rtol=1e-14, atol=0)


def test_rows_that_do_not_fit_are_refused() -> None:
    sums = DomainSums.zeros(torch.zeros(D), K)
    with pytest.raises(ValueError, match=r"states \(3, 2\), domains \(3,\) do not fit width 6"):
        sums.update(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"domains lie in 0\.\.3, these in 4\.\.4"):
        sums.update(torch.zeros(3, D), torch.full((3,), 4))
    with pytest.raises(ValueError, match=r"shapes \(4, 6\) and \(5, 6\) differ"):
        sums.merge(DomainSums.zeros(torch.zeros(D), 5))


# --- separability


def test_separability_is_the_ratio_of_the_traces_of_the_scatter_matrices() -> None:
    rows, domain = normal(60, D, seed=5) + 3, labels(60)
    mean, within, between = rows.mean(0), torch.zeros(D, D).double(), torch.zeros(D, D).double()
    for k in range(K):
        mine = rows[domain == k]
        for row in mine:
            within += torch.outer(row - mine.mean(0), row - mine.mean(0))
        between += len(mine) * torch.outer(mine.mean(0) - mean, mine.mean(0) - mean)
    expected = between.trace() / within.trace()
    for shift in (0.0, 2.5):
        found = domain_separability(sums_of(rows, domain, shift))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_separability_ignores_rotation_translation_scale_and_row_order(seed: int, scale: float, offset: float) -> None:
    rows, domain = apart(40, seed, gap=1.0)
    moved = scale * (rows @ rotation(D, seed) + offset)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    after = sums_of(moved[order], domain[order], shift=scale * offset)
    torch.testing.assert_close(
        domain_separability(after), domain_separability(sums_of(rows, domain)), rtol=1e-10, atol=0
    )


def test_separability_falls_as_domains_merge() -> None:
    values = [domain_separability(sums_of(*apart(400, 6, gap))).item() for gap in (3.0, 1.0, 0.3, 0.0)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(("sequences", "tokens", "d"), [(24, 1, 32), (64, 1, 8), (32, 16, 16)])
def test_null_of_separability_is_what_permuted_labels_read(sequences: int, tokens: int, d: int) -> None:
    # tokens of one sequence are all alike, so only the sequences are independent
    rows = normal(sequences, 1, d, seed=7).expand(-1, tokens, -1).reshape(-1, d)
    found = []
    for seed in range(300):
        order = torch.randperm(sequences, generator=torch.Generator().manual_seed(seed))
        found.append(domain_separability(sums_of(rows, (order % K).repeat_interleave(tokens))).item())
    assert sum(found) / len(found) == pytest.approx(null_domain_separability(sequences, K), rel=0.04)


def test_separability_gives_a_reason_where_it_has_no_value() -> None:
    rows = normal(10, D, seed=8)
    with pytest.raises(Undefined, match="needs rows of two domains, there is 1"):
        domain_separability(sums_of(rows, torch.ones(10, dtype=torch.long)))
    with pytest.raises(Undefined, match="needs rows of two domains, there are 0"):
        domain_separability(DomainSums.zeros(torch.zeros(D), K))
    with pytest.raises(Undefined, match="all states of a domain are equal"):
        domain_separability(sums_of(rows[:K].repeat(3, 1), torch.arange(K).repeat(3)))
    with pytest.raises(Undefined, match="no null value for 4 sequences in 4 domains"):
        null_domain_separability(4, 4)


# --- homogeneity


def pooled(rows: Tensor, domain: Tensor, centre: Tensor | None = None) -> Pooled:
    return Pooled(rows, domain, torch.arange(len(rows)) % 5, centre)


@pytest.mark.parametrize("centre", [None, torch.zeros(D), torch.full((D,), 0.7)])
def test_homogeneity_is_the_mean_cosine_over_pairs(centre: Tensor | None) -> None:
    rows, domain = apart(30, 9, gap=0.5)
    middle = rows.mean(0) if centre is None else centre
    cosines = torch.nn.functional.cosine_similarity((rows - middle)[:, None], (rows - middle)[None], dim=2)
    alike = domain[:, None] == domain
    found = pooled(rows, domain, centre)
    torch.testing.assert_close(homogeneity_between(found), cosines[~alike].mean(), rtol=1e-11, atol=1e-14)
    expected = cosines[alike & ~torch.eye(30, dtype=torch.bool)].mean()
    torch.testing.assert_close(homogeneity_within(found), expected, rtol=1e-11, atol=1e-14)


def test_four_equal_domains_fully_apart() -> None:
    rows, domain = apart(200, 10, gap=60.0, d=256)
    found = pooled(rows + 5, domain)
    assert homogeneity_between(found).item() == pytest.approx(-1 / 3, abs=0.02)
    assert homogeneity_within(found).item() == pytest.approx(1, abs=0.02)


def test_null_of_homogeneity_is_what_meaningless_domains_read() -> None:
    found = [pooled(normal(24, 64, seed=seed), labels(24, seed)) for seed in range(200)]
    for metric in (homogeneity_between, homogeneity_within):
        average = sum(metric(each).item() for each in found) / len(found)
        assert average == pytest.approx(null_homogeneity(24), abs=0.003)


def test_only_a_given_centre_shows_all_domains_drifting_one_way() -> None:
    rows, domain = apart(200, 11, gap=1.0, d=32)
    base, drifted = rows.mean(0), rows + 3
    own = homogeneity_between(pooled(drifted, domain))
    torch.testing.assert_close(own, homogeneity_between(pooled(rows, domain)), rtol=1e-10, atol=1e-12)
    assert homogeneity_between(pooled(drifted, domain, base)).item() > own.item() + 0.5
    same = homogeneity_between(pooled(rows, domain, base))
    torch.testing.assert_close(same, homogeneity_between(pooled(rows, domain)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("centre", [None, torch.zeros(D)])
def test_homogeneity_without_a_block_equals_the_other_sequences_alone(centre: Tensor | None) -> None:
    rows, domain = apart(40, 12, gap=1.0)
    whole = pooled(rows, domain, centre)
    for out in range(5):
        kept = whole.block != out
        alone = Pooled(rows[kept], domain[kept], whole.block[kept], centre)
        for metric in (homogeneity_between, homogeneity_within):
            assert metric(whole.without(out)).item() == metric(alone).item()


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-3, 3))
@settings(max_examples=20, deadline=None)
def test_homogeneity_ignores_rotation_scale_row_order_and_its_own_mean(seed: int, scale: float, offset: float) -> None:
    rows, domain = apart(40, seed, gap=1.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    moved = pooled((scale * (rows @ rotation(D, seed) + offset))[order], domain[order])
    for metric in (homogeneity_between, homogeneity_within):
        torch.testing.assert_close(metric(moved), metric(pooled(rows, domain)), rtol=1e-10, atol=1e-10)


def test_homogeneity_gives_a_reason_where_it_has_no_value() -> None:
    rows = normal(4, D, seed=13)
    with pytest.raises(Undefined, match="needs sequences of two domains, there is 1"):
        homogeneity_between(pooled(rows, torch.zeros(4)))
    with pytest.raises(Undefined, match="needs two sequences of one domain"):
        homogeneity_within(pooled(rows, torch.arange(4)))
    with pytest.raises(Undefined, match="needs sequences of two domains, there are 0"):
        homogeneity_between(pooled(torch.full((4, D), 0.1), torch.arange(4)))
    with pytest.raises(Undefined, match="no sequences"):
        homogeneity_within(pooled(torch.zeros(0, D), torch.zeros(0)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        homogeneity_within(pooled(rows / 0, torch.arange(4)))
    with pytest.raises(Undefined, match="no null value for 1 sequences"):
        null_homogeneity(1)


def test_rows_equal_to_the_centre_have_no_direction() -> None:
    rows, domain = apart(20, 14, gap=1.0)
    centre = rows[0].clone()
    found = homogeneity_between(pooled(rows, domain, centre))
    torch.testing.assert_close(found, homogeneity_between(pooled(rows[1:], domain[1:], centre)), rtol=1e-12, atol=0)


# --- the probe


@pytest.mark.parametrize(("rows", "d", "gap"), [(80, 12, 0.4), (40, 100, 0.2)])
def test_the_probe_is_ridge_regression_by_augmented_least_squares(rows: int, d: int, gap: float) -> None:
    states, domain = apart(rows, 15, gap, d=d)
    fold = torch.arange(rows) // 3 % 5
    expected = torch.zeros(rows).double()
    for held in range(5):
        train, test = fold != held, fold == held
        centre, spread = states[train].mean(0), states[train].std(0, correction=0)
        x = (states[train] - centre) / spread
        targets = torch.nn.functional.one_hot(domain[train]).double()
        ridge = RIDGE * x.square().sum() / min(x.shape)
        left = torch.cat([x, ridge.sqrt() * torch.eye(d).double()])
        right = torch.cat([targets - targets.mean(0), torch.zeros(d, K).double()])
        outputs = (states[test] - centre) / spread @ torch.linalg.lstsq(left, right).solution + targets.mean(0)
        expected[test] = (outputs.argmax(1) == domain[test]).double()
    found = domain_probe_correct(states, domain, fold)
    assert torch.equal(found, expected)
    assert 1 / K < domain_probe_accuracy(found).item() < 1


@pytest.mark.parametrize("d", [16, 200, 1000])
def test_the_probe_names_domains_apart_and_guesses_meaningless_ones(d: int) -> None:
    states, domain = apart(240, 16, gap=3.0, d=d)
    fold = torch.arange(240) // K % 5
    assert domain_probe_accuracy(domain_probe_correct(states, domain, fold)).item() == 1.0
    guesses = [domain_probe_correct(normal(240, d, seed=seed), domain, fold) for seed in range(5)]
    chance = null_domain_probe_accuracy(K)
    assert domain_probe_accuracy(torch.cat(guesses)).item() == pytest.approx(chance, abs=3 * math.sqrt(chance / 1200))


def test_the_probe_never_sees_what_it_is_asked_about() -> None:
    # each row twice, under different labels in different folds: what was learnt by heart is wrong
    states = normal(60, 400, seed=17).repeat(2, 1)
    domain = torch.arange(120) % 2
    domain[60:] = 1 - domain[60:]
    assert domain_probe_correct(states, domain, torch.arange(120) // 60).sum().item() == 0


def test_offset_scale_numbering_and_constant_coordinates_do_not_change_the_probe() -> None:
    states, domain = apart(60, 18, gap=0.5, d=20)
    fold = torch.arange(60) // K % 5
    expected = domain_probe_correct(states, domain, fold)
    other = torch.cat([100 * states - 7, torch.full((60, 3), 0.1).double()], 1)
    assert torch.equal(domain_probe_correct(other, 10 * domain + 3, 5 - fold), expected)


def test_accuracy_is_the_mean_over_the_sequences_that_are_there() -> None:
    correct = torch.tensor([1.0, math.nan, 0.0, 1.0])
    assert domain_probe_accuracy(correct).item() == pytest.approx(2 / 3)
    with pytest.raises(Undefined, match="no sequences"):
        domain_probe_accuracy(correct[1:2])


def test_the_probe_gives_a_reason_where_it_has_no_value() -> None:
    states, domain, fold = normal(12, D, seed=19), torch.arange(12) % 3, torch.arange(12) // 3
    with pytest.raises(Undefined, match="two domains and two folds, there are 1 and 4"):
        domain_probe_correct(states, torch.zeros(12), fold)
    with pytest.raises(Undefined, match="two domains and two folds, there are 3 and 1"):
        domain_probe_correct(states, domain, torch.zeros(12))
    with pytest.raises(Undefined, match="all sequences of a domain lie in one fold"):
        domain_probe_correct(states, domain, domain)
    with pytest.raises(Undefined, match="all equal"):
        domain_probe_correct(torch.full((12, D), 0.1), domain, fold)
    with pytest.raises(ValueError, match="NaN or infinite"):
        domain_probe_correct(states / 0, domain, fold)
    with pytest.raises(Undefined, match="no null value in 1 domains"):
        null_domain_probe_accuracy(1)
