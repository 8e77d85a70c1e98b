from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from limberlm.geometry import (
    BlockProducts,
    Undefined,
    benjamini_hochberg,
    effective_rank,
    eigenvalues,
    holm,
    jackknife,
    minimum_detectable_effect,
    paired_difference,
    participation_ratio,
    participation_ratio_debiased,
    rankme,
)
from tests.geometry.clouds import blocks, merged, normal, power_law, rotation, sequences

NAN = math.nan


def delete_one(rows: Tensor, count: int = 16) -> tuple[Tensor, Tensor]:
    """Eigenvalues [d] on all equal blocks of `rows` and [G, d] without each, in one batched solve."""
    parts = torch.stack([part.reshape(-1, rows.shape[-1]) for part in rows.chunk(count)])
    second, total, n = parts.mT @ parts, parts.sum(1), parts.shape[0] * parts.shape[1]
    second = torch.cat([second.sum(0, keepdim=True), second.sum(0) - second])
    total = torch.cat([total.sum(0, keepdim=True), total.sum(0) - total])
    left = torch.tensor([n] + [n - parts.shape[1]] * count)[:, None, None]
    covariance = (second - total[:, :, None] * total[:, None] / left) / (left - 1)
    eigs = torch.linalg.eigvalsh(covariance).clip(0)
    return eigs[0], eigs[1:]


def estimate(metric, eigs: tuple[Tensor, Tensor]):
    return jackknife(metric(eigs[0]).item(), [metric(e).item() for e in eigs[1]], scale="log")


# --- the jackknife


def test_of_a_mean_it_gives_the_textbook_interval() -> None:
    sample = np.random.default_rng(0).normal(3, 2, 16)
    without = [(sample.sum() - x) / 15 for x in sample]
    result = jackknife(sample.mean(), without)
    low, high = stats.t.interval(0.95, 15, sample.mean(), stats.sem(sample))
    assert result.corrected == pytest.approx(sample.mean(), rel=1e-12)
    assert result.std_error == pytest.approx(stats.sem(sample), rel=1e-12)
    assert (result.low, result.high) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))
    narrow = jackknife(sample.mean(), without, confidence=0.5)
    assert low < narrow.low < narrow.corrected < narrow.high < high


def test_it_removes_a_bias_of_one_over_n_exactly() -> None:
    sample = np.random.default_rng(1).normal(0, 3, 12)
    without = [np.delete(sample, b).var() for b in range(12)]
    assert jackknife(sample.var(), without).corrected == pytest.approx(sample.var(ddof=1), rel=1e-12)


def test_log_metrics_are_shown_as_numbers_and_kept_as_logarithms() -> None:
    replicates = [4.0, 5.0, 6.0, 5.5, 4.5, 5.0, 5.2, 4.8]
    log, plain = (
        jackknife(5.0, replicates, scale="log"),
        jackknife(math.log(5.0), np.log(replicates).tolist()),
    )
    assert log.value == 5.0
    assert log.replicates == plain.replicates == tuple(np.log(replicates))
    assert log.std_error == plain.std_error
    for shown, kept in ((log.corrected, plain.corrected), (log.low, plain.low), (log.high, plain.high)):
        assert shown == pytest.approx(math.exp(kept), rel=1e-14)


def test_about_the_value_it_has_the_same_width() -> None:
    sample = np.random.default_rng(1).normal(0, 3, 12)
    without = [np.delete(sample, b).var() for b in range(12)]
    corrected, plain = (jackknife(sample.var(), without, centre=centre) for centre in ("corrected", "value"))
    assert (plain.corrected, plain.low + plain.high) == (sample.var(), pytest.approx(2 * sample.var(), rel=1e-12))
    assert plain.std_error == corrected.std_error
    assert plain.high - plain.low == pytest.approx(corrected.high - corrected.low, rel=1e-12)


def test_empty_blocks_drop_out_and_keep_their_place() -> None:
    replicates = [1.0, 1.2, 0.9, 1.1, 1.3, 0.8, 1.0, 1.05]
    full, gapped = jackknife(1.0, replicates), jackknife(1.0, [*replicates[:3], NAN, *replicates[3:], NAN])
    assert np.isnan(gapped.replicates).nonzero()[0].tolist() == [3, 8 + 1]
    assert (gapped.corrected, gapped.std_error, gapped.low) == (full.corrected, full.std_error, full.low)


def test_below_eight_blocks_there_is_a_value_but_no_interval() -> None:
    result = jackknife(1.0, [1.0, 1.1, 0.9, 1.0, 1.0, 1.0, 1.0])
    assert (result.value, result.corrected) == (1.0, pytest.approx(1.0))
    assert np.isnan([result.std_error, result.low, result.high]).all()
    assert np.isnan(jackknife(1.0, [1.0]).corrected)


def test_what_has_no_logarithm_is_undefined() -> None:
    for value, replicates in ((0.0, [1.0] * 8), (1.0, [1.0] * 7 + [-1.0]), (NAN, [1.0] * 8)):
        with pytest.raises(Undefined):
            jackknife(value, replicates, scale="log")


@pytest.mark.parametrize(
    ("alpha", "n", "plug_in", "truth"),
    [(0.5, 512, 262.9, 409.6), (0.5, 2048, 366.5, 409.6), (1.0, 512, 92.3, 117.2), (0.0, 1024, 398.6, 512.0)],
)
def test_ten_groups_repair_the_bias_of_the_effective_rank(alpha, n, plug_in, truth) -> None:
    rows = normal(n, 512, seed=0) * power_law(512, alpha).sqrt()
    parts = blocks(rows, 10)
    whole = merged(parts)
    values = [effective_rank(eigenvalues(m.covariance)).item() for m in (whole, *map(whole.without, parts))]
    result = jackknife(values[0], values[1:], scale="log")
    assert result.value == pytest.approx(plug_in, rel=0.015)
    assert result.corrected == pytest.approx(truth, rel=0.01)


def test_below_full_rank_the_repair_fails_as_stated() -> None:
    eigs = delete_one(normal(250, 512, seed=0), 10)
    result = estimate(effective_rank, eigs)
    assert result.value == pytest.approx(198.7, rel=0.03)
    assert result.corrected < 0.9 * 512


def test_batched_delete_one_equals_the_moments_route() -> None:
    rows = sequences(32, 4, power_law(8, 1.0), 0.4, seed=0)
    parts = blocks(rows)
    whole = merged(parts)
    eigs, without = delete_one(rows)
    torch.testing.assert_close(eigs.flip(0), eigenvalues(whole.covariance))
    torch.testing.assert_close(without[3].flip(0), eigenvalues(whole.without(parts[3]).covariance))


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Power law 1 in d = 64, tokens of a sequence sharing 0.4 of their variance; 200 repetitions."""
    population = power_law(64, 1.0)
    metrics = {"effective_rank": effective_rank, "rankme": rankme, "participation_ratio": participation_ratio}
    truth = {name: metric(population).item() for name, metric in metrics.items()}
    truth["debiased"] = truth["participation_ratio"]
    covered = dict.fromkeys(truth, 0)
    covered_by_plug_in = 0
    for seed in range(200):
        rows = sequences(192, 16, population, 0.4, seed)
        eigs, parts = delete_one(rows), blocks(rows)
        found = {name: estimate(metric, eigs) for name, metric in metrics.items()}
        products = BlockProducts.of(parts)
        found["debiased"] = jackknife(
            participation_ratio_debiased(products).item(),
            [participation_ratio_debiased(products.without(b)).item() for b in range(len(parts))],
            scale="log",
        )
        for name, result in found.items():
            covered[name] += result.low <= truth[name] <= result.high
        half = math.log(found["rankme"].high / found["rankme"].low) / 2
        covered_by_plug_in += abs(math.log(found["rankme"].value / truth["rankme"])) <= half
    assert all(0.92 <= count / 200 <= 0.985 for count in covered.values()), covered
    assert covered_by_plug_in / 200 < 0.2


# --- paired differences


def test_two_equal_checkpoints_differ_by_exactly_nothing() -> None:
    a = jackknife(5.0, [4.0, 5.0, 6.0, 5.5, NAN, 4.5, 5.0, 5.2, 4.8], scale="log")
    ratio = paired_difference(a.value, a.replicates, a.value, a.replicates, scale="log")
    assert (ratio.value, ratio.corrected, ratio.low, ratio.high, ratio.p_value) == (1, 1, 1, 1, 1)
    assert ratio.blocks == 8
    linear = paired_difference(0.1, (0.1,) * 3, 0.1, (0.1,) * 3, scale="linear")
    assert (linear.value, linear.low, linear.high, linear.std_error, linear.p_value) == (0, 0, 0, 0, 1)


def test_of_two_means_it_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(0, 1, (2, 16)) + generator.normal(0, 2, 16)
    b += 0.5
    result = paired_difference(
        a.mean(), (a.sum() - a) / 15, b.mean(), (b.sum() - b) / 15, scale="linear", confidence=0.9
    )
    test = stats.ttest_rel(b, a)
    interval = test.confidence_interval(0.9)
    assert result.value == pytest.approx(b.mean() - a.mean(), rel=1e-10)
    assert result.p_value == pytest.approx(test.pvalue, rel=1e-10)
    assert (result.low, result.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_on_the_log_scale_it_is_a_ratio_and_swapping_sides_inverts_it() -> None:
    a = jackknife(5.0, [4.0, 5.0, 6.0, 5.5, 4.5, 5.0, 5.2, 4.8], scale="log")
    b = jackknife(2.5, [2.1, 2.6, 2.9, 2.7, 2.3, 2.4, 2.5, 2.5], scale="log")
    forth = paired_difference(a.value, a.replicates, b.value, b.replicates, scale="log")
    back = paired_difference(b.value, b.replicates, a.value, a.replicates, scale="log")
    assert forth.value == pytest.approx(0.5)
    assert forth.corrected == pytest.approx(b.corrected / a.corrected)
    assert forth.low < forth.corrected < forth.high
    assert (back.low, back.high) == (pytest.approx(1 / forth.high), pytest.approx(1 / forth.low))
    assert back.p_value == pytest.approx(forth.p_value)
    assert back.std_error == pytest.approx(forth.std_error)


def test_a_difference_of_values_is_not_corrected_either() -> None:
    a, b = np.random.default_rng(4).normal(3, 1, (2, 16))
    corrected, plain = (
        paired_difference(3.0, a, 3.5, b, scale="linear", centre=centre) for centre in ("corrected", "value")
    )
    assert (plain.corrected, plain.value, plain.std_error) == (0.5, 0.5, corrected.std_error)
    assert plain.low + plain.high == pytest.approx(1.0, rel=1e-12)
    assert plain.p_value == pytest.approx(2 * stats.t.sf(0.5 / plain.std_error, 15), rel=1e-10)


def test_the_same_change_in_every_block_is_certain() -> None:
    a = tuple(float(i) for i in range(8))
    result = paired_difference(3.5, a, 4.0, tuple(x + 0.5 for x in a), scale="linear")
    assert (result.corrected, result.low, result.high, result.p_value) == (0.5, 0.5, 0.5, 0.0)


def test_below_eight_blocks_there_is_no_test() -> None:
    result = paired_difference(1.0, (1.0, 1.1, 0.9), 2.0, (2.0, 2.3, 1.9), scale="linear")
    assert (result.value, result.blocks) == (1.0, 3)
    assert np.isnan([result.std_error, result.low, result.high, result.p_value]).all()


@pytest.mark.parametrize("other", [(1.0, 2.0), (1.0, NAN, 2.0)])
def test_different_blocks_are_refused(other: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="not measured on the same blocks"):
        paired_difference(1.0, (1.0, 2.0, 3.0), 1.0, other, scale="linear")


def test_without_an_effect_one_test_in_twenty_rejects() -> None:
    """Two related clouds with one population spectrum; 500 repetitions."""
    d, runs = 24, 500
    population, turn = power_law(d, 1.0).sqrt(), rotation(d, seed=0)
    rejected = {effective_rank: 0, participation_ratio: 0}
    for seed in range(runs):
        a = sequences(64, 4, torch.ones(d), 0.4, seed=2 * seed)
        b = 0.8 * a + 0.6 * sequences(64, 4, torch.ones(d), 0.4, seed=2 * seed + 1)
        before, after = delete_one(a * population), delete_one(b * population @ turn)
        for metric in rejected:
            left, right = estimate(metric, before), estimate(metric, after)
            result = paired_difference(left.value, left.replicates, right.value, right.replicates, scale="log")
            rejected[metric] += result.p_value < 0.05
    assert all(0.03 <= count / runs <= 0.07 for count in rejected.values()), list(rejected.values())


# --- many comparisons, power

p_values = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.05, 0.5])), min_size=1, max_size=30)


@given(p_values)
@settings(max_examples=100, deadline=None)
def test_benjamini_hochberg_equals_statsmodels(p: list[float]) -> None:
    expected = multipletests(p, method="fdr_bh")[1]
    np.testing.assert_allclose(benjamini_hochberg(p), expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("m", [1, 2, 6, 40])
def test_holm_equals_statsmodels(m: int) -> None:
    p = (np.random.default_rng(m).random(m) / 10).round(2)
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-15, atol=1e-15)


@given(p_values)
@settings(max_examples=100, deadline=None)
def test_holm_is_the_running_maximum_of_its_steps(p: list[float]) -> None:
    adjusted, steps = holm(p), []
    for i, position in enumerate(np.argsort(p, kind="stable")):
        steps.append(min(1.0, (len(p) - i) * p[position]))
        assert adjusted[position] == pytest.approx(max(steps), abs=1e-15)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_undefined_cells_leave_the_family(adjust) -> None:
    p = [0.01, NAN, 0.04, 0.03, NAN]
    adjusted = adjust(p)
    assert np.isnan(adjusted).tolist() == np.isnan(p).tolist()
    np.testing.assert_array_equal(adjusted[[0, 2, 3]], adjust([0.01, 0.04, 0.03]))
    assert np.isnan(adjust([NAN])).all()
    assert adjust([]).size == 0


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(adjust, p: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        adjust([0.5, p])


def test_minimum_detectable_effect_has_the_power_it_claims() -> None:
    effect = minimum_detectable_effect(1.0, blocks=16)
    assert effect == pytest.approx(2.998, abs=5e-4)
    critical = stats.t.ppf(0.975, 15)
    assert stats.nct.sf(critical, 15, effect) == pytest.approx(0.8, abs=0.01)
    assert minimum_detectable_effect(0.5, 16) == pytest.approx(effect / 2)
    assert minimum_detectable_effect(1.0, 16, power=0.9) > effect
    with pytest.raises(ValueError, match="two blocks"):
        minimum_detectable_effect(1.0, 1)
