"""Estimators without bias, intervals, tests and their adjustment."""

from __future__ import annotations

from functools import lru_cache
from math import log, perm

import numpy as np
import torch
from scipy import stats
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from limberlm.geometry import (
    BlockProducts,
    benjamini_hochberg,
    effective_rank,
    holm,
    jackknife,
    minimum_detectable_effect,
    paired_difference,
    participation_ratio,
    participation_ratio_debiased,
    rankme,
)
from limberlm.geometry.similarity import hsic_rows
from tests.acceptance.spectra import of
from tests.acceptance.table import Got, Row, both, near, tiny
from tests.geometry.clouds import blocks, merged, moments, normal, power_law, rotation, sequences
from tests.geometry.test_between_blocks import cross, ratio, ratio_over_quadruples, row_version, uneven_parts
from tests.geometry.test_gap_transfer import D as TRANSFER_WIDTH
from tests.geometry.test_gap_transfer import estimates, even, uneven, with_a_dominant_block
from tests.geometry.test_uncertainty import delete_one, estimate


def debiased(rows: Tensor) -> float:
    """The block version over 16 consecutive blocks."""
    return participation_ratio_debiased(BlockProducts.of(blocks(rows))).item()


def few_rows() -> Got:
    eigs = power_law(256, 0.7)
    clouds = {n: [normal(n, 256, seed=seed) * eigs.sqrt() for seed in range(100)] for n in (128, 32)}
    means = {n: np.mean([debiased(cloud) for cloud in found]) for n, found in clouds.items()}
    naive = [np.mean([participation_ratio(of(cloud)).item() for cloud in clouds[n][:20]]) for n in (128, 32)]
    inside = abs(means[128] - 78.4) <= 2 and 77 <= means[32] <= 84
    return both(
        Got(f"debiased {means[128]:.1f} and {means[32]:.1f}", inside),
        Got(f"naive {naive[0]:.1f} and {naive[1]:.1f}", abs(naive[0] - 48.2) < 1 and abs(naive[1] - 22) < 1),
    )


def one_row_per_block() -> Got:
    n, x = 30, normal(30, 5, seed=5) + 1
    below = row_version(x)[1]
    S = x.T.cov()
    Q = (x - x.mean(0)).square().sum(1).square().sum() / (n - 1)
    himeno = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * S.square().sum() + S.trace() ** 2 - n * Q)
    by_block = BlockProducts.of(blocks(x, n)).spread()[1] / perm(n, 4)
    return tiny(max(abs(float(other) / below - 1) for other in (himeno, hsic_rows(cross(x, x)), by_block)), 1e-10)


def tuples() -> Got:
    parts = uneven_parts(seed=3)
    brute = abs(float(ratio(parts)) / ratio_over_quadruples(parts) - 1)
    rows = normal(60, 6, seed=2)
    whole = moments(rows)
    shards = [moments(part, shift=torch.full((6,), c)) for part, c in zip(rows.chunk(3), (0.0, 3.0, -2.0), strict=True)]
    joined = merged(shards)
    errors = [(joined.covariance - whole.covariance).abs().max(), (joined.mean - whole.mean).abs().max()]
    return both(tiny(brute, 1e-12, "tuples"), tiny(float(max(errors)), 1e-12, "merged and shifted"))


def repaired() -> Got:
    found = []
    for alpha in (0.5, 1.0, 0.0):
        truth = effective_rank(power_law(512, alpha)).item()
        result = estimate(effective_rank, delete_one(normal(1020, 512, seed=0) * power_law(512, alpha).sqrt(), 10))
        found.append(result.corrected / truth)
    return Got("of the truth: " + ", ".join(f"{share:.4f}" for share in found), all(abs(s - 1) < 0.01 for s in found))


RUNS = 300


@lru_cache
def covered() -> tuple[dict[str, float], dict[str, float]]:
    """As in the test, with 300 repetitions: by intervals as they are, and moved to the plug-in value."""
    population = power_law(64, 1.0)
    metrics = {"effective rank": effective_rank, "RankMe": rankme, "PR": participation_ratio}
    truth = {name: metric(population).item() for name, metric in metrics.items()}
    hits, moved = dict.fromkeys([*truth, "PR debiased"], 0.0), dict.fromkeys(truth, 0.0)
    for seed in range(RUNS):
        rows = sequences(192, 16, population, 0.4, seed)
        eigs, products = delete_one(rows), BlockProducts.of(blocks(rows))
        found = {name: estimate(metric, eigs) for name, metric in metrics.items()}
        without = [participation_ratio_debiased(products.without(b)).item() for b in range(16)]
        found["PR debiased"] = jackknife(participation_ratio_debiased(products).item(), without, scale="log")
        for name, result in found.items():
            true = truth[name.removesuffix(" debiased")]
            hits[name] += (result.low <= true <= result.high) / RUNS
            if name in moved:
                moved[name] += (abs(log(result.value / true)) <= log(result.high / result.low) / 2) / RUNS
    return hits, moved


def coverage() -> Got:
    shares = covered()[0]
    met = all(0.92 <= share <= 0.98 for share in shares.values())
    return Got(", ".join(f"{name} {share:.3f}" for name, share in shares.items()), met)


def coverage_of_plug_in() -> Got:
    return Got(", ".join(f"{name} {share:.3f}" for name, share in covered()[1].items()), None)


def no_effect() -> Got:
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
    shares = [count / runs for count in rejected.values()]
    return Got(f"effective rank {shares[0]:.3f}, PR {shares[1]:.3f}", all(0.03 <= share <= 0.07 for share in shares))


def transferred() -> Got:
    gaps = []
    for design in (even, with_a_dominant_block, uneven):
        for alpha in (0.5, 1.0):
            for metric in (effective_rank, rankme):
                quick, exact = estimates(design(8 * TRANSFER_WIDTH, alpha, 0), metric)
                gaps.append(abs(log(quick.corrected / exact.corrected)))
    return Got(f"largest gap of ln theta_J {max(gaps):.4f}", max(gaps) < 0.003)


def clustered() -> Got:
    """Table 4.4: block, naive and row version where tokens of a sequence resemble each other."""
    eigs, cells, met = power_law(128, 0.7), [], True
    designs = (
        (128, 16, 0.0, 47.2, 48.4),
        (128, 16, 0.5, 43.5, 44.5),
        (512, 8, 0.5, 46.8, 47.3),
        (64, 32, 0.8, 32.2, 32.8),
    )
    for count, tokens, correlation, naive, row in designs:
        clouds = [sequences(count, tokens, eigs, correlation, seed) for seed in range(60)]
        block = np.mean([debiased(cloud) for cloud in clouds])
        plain = np.mean([participation_ratio(of(cloud.flatten(0, 1))).item() for cloud in clouds[:20]])
        by_row = np.mean([above / below for above, below in (row_version(cloud.flatten(0, 1)) for cloud in clouds)])
        cells.append(f"{plain:.1f} / {by_row:.1f} / {block:.1f}")
        met &= abs(plain - naive) < 0.7 and abs(by_row - row) < 0.5 and abs(block / 48.4 - 1) < 0.02
    return Got(", ".join(cells), bool(met))


def adjusted() -> Got:
    p = np.random.default_rng(0).random(40) / 5
    pairs = ((holm, "holm"), (benjamini_hochberg, "fdr_bh"))
    error = max(float(np.abs(ours(p) - multipletests(p, method=theirs)[1]).max()) for ours, theirs in pairs)
    effect = minimum_detectable_effect(1.0, blocks=16)
    power = stats.nct.sf(stats.t.ppf(0.975, 15), 15, effect)
    return both(tiny(error, 1e-15), near([effect], [2.998], 5e-4), Got(f"power {power:.3f}", abs(power - 0.8) < 0.01))


_BETWEEN, _UNCERTAIN = "geometry/test_between_blocks.py::", "geometry/test_uncertainty.py::"

ROWS = (
    Row(
        "debiased participation ratio, i^-0.7, d = 256 (true 77.56), n = 128 and 32, mean of 100",
        "78.4 (± 2) and 79 to 82 (one draw: sd 13); naive 48.2 and 22",
        (f"{_BETWEEN}test_debiased_ratio_finds_the_truth_where_the_naive_one_cannot",),
        few_rows,
    ),
    Row(
        "row version = Himeno-Yamada = HSIC(K, K) for tr Sigma^2",
        "1e-10 relative",
        (
            f"{_BETWEEN}test_one_row_per_block_equals_the_row_version_himeno_yamada_and_hsic_of_the_states_with_themselves",
        ),
        one_row_per_block,
    ),
    Row(
        "block version against brute-force tuples; merged and shifted shards",
        "1e-12",
        (
            f"{_BETWEEN}test_debiased_ratio_equals_the_mean_over_quadruples_from_distinct_blocks",
            "geometry/test_statistics.py::test_any_split_and_order_of_shards_gives_the_sums_of_the_whole",
            "geometry/test_statistics.py::test_shards_about_different_shifts_merge_exactly",
        ),
        tuples,
    ),
    Row(
        "jackknifed effective rank at n = 2 d (1020 rows in ten groups, d = 512), alpha 0.5 / 1 / 0",
        "within 1 % of the truth",
        (f"{_UNCERTAIN}test_ten_groups_repair_the_bias_of_the_effective_rank",),
        repaired,
    ),
    Row(
        "coverage of nominal 95 % intervals, 300 runs",
        "0.92 to 0.98",
        (f"{_UNCERTAIN}test_intervals_cover_the_truth_as_often_as_they_say",),
        coverage,
    ),
    Row(
        "the same intervals, centred on the plug-in value instead",
        "effective rank 0.77, RankMe 0.07, PR 0.92, in a design whose number of texts was not noted",
        (f"{_UNCERTAIN}test_intervals_cover_the_truth_as_often_as_they_say",),
        coverage_of_plug_in,
    ),
    Row(
        "paired test under no effect, 500 runs: rejections at 5 %",
        "0.03 to 0.07",
        (f"{_UNCERTAIN}test_without_an_effect_one_test_in_twenty_rejects",),
        no_effect,
    ),
    Row(
        "gap transfer against 16 exact solves, n = 8 d",
        "theta_J within 0.003",
        ("geometry/test_gap_transfer.py::test_the_corrected_value_is_that_of_sixteen_exact_solves",),
        transferred,
    ),
    Row(
        "dependent tokens (true 48.4): naive / row / block version in four designs",
        "47.2 / 48.4, 43.5 / 44.5, 46.8 / 47.3, 32.2 / 32.8; block within 2 % of the truth",
        (f"{_BETWEEN}test_debiased_ratio_survives_tokens_that_resemble_each_other",),
        clustered,
    ),
    Row(
        "Holm and Benjamini-Hochberg against statsmodels; minimum detectable effect",
        "1e-15; 2.998 SE",
        (
            f"{_UNCERTAIN}test_holm_equals_statsmodels",
            f"{_UNCERTAIN}test_benjamini_hochberg_equals_statsmodels",
            f"{_UNCERTAIN}test_minimum_detectable_effect_has_the_power_it_claims",
        ),
        adjusted,
    ),
)
