"""Isotropy, dimension, domains and similarity of states."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch
from scipy.special import ive
from scipy.stats import vonmises_fisher

from limberlm.geometry import effective_rank, jackknife, participation_ratio
from limberlm.geometry.between_blocks import cka
from limberlm.geometry.dimension import twonn
from limberlm.geometry.domains import homogeneity_between, homogeneity_within
from limberlm.geometry.similarity import cka_rows
from tests.acceptance.spectra import of
from tests.acceptance.table import Got, Row, both, near, tiny
from tests.geometry.clouds import normal, power_law, rotation, sequences
from tests.geometry.test_between_blocks import (
    cka_over_quadruples,
    cross_products,
    related_parts,
    similarity,
)
from tests.geometry.test_between_blocks import cross as crossed
from tests.geometry.test_dimension import flat
from tests.geometry.test_dimension import of as neighbours
from tests.geometry.test_domains import apart, pooled
from tests.geometry.test_isotropy import (
    FOURTH,
    SEED,
    D,
    all_pairs,
    base_cloud,
    massive_cloud,
    offset_cloud,
    rank_share,
    read,
    rms,
    rogue_cloud,
    standardised,
)
from tests.geometry.test_similarity import biased, by_rows, gram_hsic, related
from tests.geometry.test_uncertainty import delete_one


def signature() -> Got:
    """Table 5.1."""
    expected = {
        "base": (base_cloud, (0.21, 0.21), 0.00, 0.22, 0.15, 0.25),
        "massive tokens": (massive_cloud, (0.21, 0.21), 0.16, 0.0024, 0.98, 0.25),
        "rogue dimension": (rogue_cloud, (0.03, 0.03), 0.00, 0.0025, 0.97, 0.007),
        "constant": (offset_cloud, (0.6, 0.7), 0.00, 0.22, 0.15, 0.30),
    }
    parts = []
    for name, (cloud, raw, centred, rank, top, rms_rank) in expected.items():
        rows = cloud(SEED)
        found, after = read(rows), rank_share(rms(rows))
        met = raw[0] - 0.03 <= found[0] <= raw[1] + 0.03 and abs(found[1] - centred) <= 0.03
        met = met and abs(found[2] / rank - 1) <= 0.05 and abs(found[3] - top) <= 0.01
        met = met and abs(after - rms_rank) <= 0.05 * rms_rank + 0.0005
        values = f"{found[0]:.2f}, {found[1]:.2f}, {found[2]:.2g}, {found[3]:.2f}, {after:.2g}"
        parts.append(Got(f"{name} {values}", met))
    return both(*parts)


def mended() -> Got:
    rows = rogue_cloud(SEED)
    kept = rows[:, torch.arange(D) != FOURTH]
    found = [rank_share(standardised(rms(rows))), rank_share(standardised(rows)), rank_share(kept)]
    ratio = participation_ratio(of(base_cloud(SEED))).item()
    shares = all(abs(a / b - 1) <= 0.05 for a, b in zip(found, (0.47, 0.94, 0.23), strict=True))
    return both(Got(", ".join(f"{share:.2f}" for share in found), shares), near([ratio], [28], 2, 1))


def zero_sum() -> Got:
    errors = []
    for n in (2, 7, 50):
        angles = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
        errors.append(abs(all_pairs(torch.stack([angles.cos(), angles.sin()], 1)).item() + 1 / (n - 1)))
    return tiny(max(errors), 1e-12)


def von_mises_fisher() -> Got:
    parts = []
    for d, kappa, rows, cosine, rank in ((64, 16, 20000, 0.0559, 63.995), (768, 768, 2000, 0.3822, 767.81)):
        sample = torch.from_numpy(vonmises_fisher(np.eye(d)[0], kappa, seed=0).rvs(rows))
        parts.append(near([all_pairs(sample).item()], [cosine], 0.002, 4))
        resultant = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)
        along = 1 - (d - 1) / kappa * resultant - resultant**2
        population = torch.tensor([along] + [resultant / kappa] * (d - 1), dtype=torch.float64)
        parts.append(near([effective_rank(population).item()], [rank], 0.01))
        if d == 64:
            eigs, without = delete_one(sample)
            ranks = [effective_rank(e).item() for e in without]
            sampled = jackknife(effective_rank(eigs).item(), ranks, scale="log").corrected
            parts.append(Got(f"sample, debiased {sampled:.3f}", abs(sampled - rank) <= 0.005))
    return both(*parts)


def nearest() -> Got:
    found = [
        np.mean([twonn(neighbours(flat(2000, dimension, seed=seed))).item() for seed in range(3)])
        for dimension in (5, 20, 50)
    ]
    met = all(abs(a - b) <= c for a, b, c in zip(found, (5.0, 17.0, 32.0), (0.3, 1.0, 3.0), strict=True))
    return Got(", ".join(f"{value:.1f}" for value in found), met)


def domains() -> Got:
    found = pooled(*apart(200, 10, gap=60.0, d=256))
    values = [homogeneity_between(found).item(), homogeneity_within(found).item()]
    return near(values, [-1 / 3, 1.0], 0.02)


def unrelated() -> Got:
    plain, rows, block = [], [], []
    for n in (128, 512, 2048):
        draws = [(normal(n, 512, seed=seed), normal(n, 512, seed=seed + 100)) for seed in range(max(1, 1024 // n))]
        plain.append(float(np.mean([biased(*pair) for pair in draws])))
        rows.append(float(np.mean([by_rows(*pair) for pair in draws])))
        block.append(float(np.mean([similarity(*pair) for pair in draws])))
    return both(near(plain, [0.8, 0.5, 0.2], 0.01), near(rows, [0.0] * 3, 0.01), near(block, [0.0] * 3, 0.01))


def same() -> Got:
    rows = normal(160, 8, seed=15) * power_law(8, 1.0).sqrt() + 2
    ones = []
    for sizes in ([10] * 16, [1, 40, 3, 16, 30, 10, 25, 35]):
        x = list(rows.split(sizes))
        turned = [-3 * part @ rotation(8, seed=16) + 1 for part in x]
        ones += [abs(cka(cross_products(x, y)).item() - 1) for y in (x, turned)]
    x, y = related(50, seed=2)
    expected = gram_hsic(x, y) / sqrt(gram_hsic(x, x) * gram_hsic(y, y))
    parts = related_parts(seed=10, offset=1.0)
    tuples = abs(cka(cross_products(*parts)).item() / cka_over_quadruples(*parts) - 1)
    return both(
        tiny(max(ones), 1e-12, "off 1 by"),
        tiny(abs(by_rows(x, y) / expected - 1), 1e-12, "Gram"),
        tiny(tuples, 1e-12, "tuples"),
    )


def clustered() -> Got:
    eigs = torch.ones(32, dtype=torch.float64)
    pairs = [[sequences(96, 10, eigs, 0.5, seed + side) for side in (0, 500)] for seed in range(40)]
    block = float(np.mean([similarity(x, y) for x, y in pairs]))
    row = float(np.mean([cka_rows(crossed(x, y), crossed(x, x), crossed(y, y)).item() for x, y in pairs]))
    return both(near([block], [0.0], 0.01), near([row], [0.07], 0.011))


_ISOTROPY, _SIMILARITY, _BETWEEN = (
    f"geometry/test_{name}.py::" for name in ("isotropy", "similarity", "between_blocks")
)

ROWS = (
    Row(
        "the massive-token signature, four clouds: raw cosine, centred cosine, effective rank / d, VE_1, rank / d "
        "after RMS",
        "0.21, 0.00, 0.22, 0.15, 0.25; 0.21, 0.16, 0.0024, 0.98, 0.25; 0.03, 0.00, 0.0025, 0.97, 0.007; 0.6-0.7, 0.00, "
        "0.22, 0.15, 0.30 (cosines ± 0.03, ranks ± 5 %)",
        (f"{_ISOTROPY}test_signature_of_massive_tokens",),
        signature,
    ),
    Row(
        "rogue dimension: RMS then z, z alone, deleted; base participation ratio",
        "0.47, 0.94, 0.23 (± 5 %); 28 (± 2)",
        (
            f"{_ISOTROPY}test_a_rogue_dimension_goes_by_standardising_or_deleting_it",
            f"{_ISOTROPY}test_base_cloud_has_the_participation_ratio_of_its_population",
        ),
        mended,
    ),
    Row(
        "unit rows of zero sum: mean cosine + 1/(n - 1)",
        "0 (1e-12)",
        (f"{_ISOTROPY}test_unit_rows_of_zero_sum_have_the_least_mean_cosine",),
        zero_sum,
    ),
    Row(
        "von Mises-Fisher d = 64, kappa 16; d = kappa = 768: mean cosine, centred rank",
        "0.0559, 63.995; 0.3822, 767.81",
        (
            f"{_ISOTROPY}test_a_von_mises_fisher_cloud_is_an_offset_with_full_rank",
            f"{_ISOTROPY}test_a_sample_of_it_has_full_rank_once_debiased",
        ),
        von_mises_fisher,
    ),
    Row(
        "TwoNN of Gaussian rows, n = 2000 in 100 dimensions, true 5 / 20 / 50",
        "5.0 (± 0.3), 17.0 (± 1), 32 (± 3): a known bias",
        ("geometry/test_dimension.py::test_gaussian_rows_read_ever_shorter_of_their_dimension",),
        nearest,
    ),
    Row(
        "homogeneity of four equal domains fully apart: between, within",
        "-1/3, 1 (± 0.02)",
        ("geometry/test_domains.py::test_four_equal_domains_fully_apart",),
        domains,
    ),
    Row(
        "CKA of unrelated states, d = 512, n = 128 / 512 / 2048: plug-in; by rows; by blocks",
        "0.80, 0.50, 0.20 (± 0.01); 0 (± 0.01); 0 (± 0.01)",
        (
            f"{_SIMILARITY}test_unrelated_states_read_their_null_if_biased_and_zero_if_debiased",
            f"{_BETWEEN}test_unrelated_states_of_any_count_read_zero",
        ),
        unrelated,
    ),
    Row(
        "CKA(X, X) and CKA(X, cXQ) in any split; streaming against Gram; blocks against tuples",
        "1; 1e-12; 1e-12",
        (
            f"{_BETWEEN}test_cka_of_the_same_states_turned_and_scaled_is_one",
            f"{_SIMILARITY}test_the_same_states_read_one_for_any_split_into_batches",
            f"{_SIMILARITY}test_streaming_row_version_equals_gram_matrices",
            f"{_BETWEEN}test_cka_equals_the_mean_over_quadruples_from_distinct_blocks",
        ),
        same,
    ),
    Row(
        "CKA of unrelated texts whose tokens are alike: by blocks; by rows",
        "0 (± 0.01); 0.07",
        (f"{_BETWEEN}test_unrelated_texts_of_alike_tokens_read_zero_where_the_row_version_does_not",),
        clustered,
    ),
)
