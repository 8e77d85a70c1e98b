from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry.angles import orthonormal_basis, principal_angles
from limberlm.geometry.catalog.record import Counts
from limberlm.geometry.catalog.similarity import METRICS
from limberlm.geometry.cross import CrossMoments, CrossPart
from limberlm.geometry.similarity import (
    MOST_ROWS,
    Distances,
    cka_biased,
    cka_rows,
    cka_uncentred,
    distance_stability,
    hsic_rows,
    null_cka_biased,
    null_subspace_overlap,
    subspace_angles,
    subspace_overlap,
)
from limberlm.geometry.undefined import Undefined
from tests.geometry.clouds import moments, normal, power_law, rotation

RECORDS = {record.name: record for record in METRICS}


def cross(x: Tensor, y: Tensor) -> CrossMoments:
    sums = CrossMoments.zeros(torch.zeros(x.shape[1]), torch.zeros(y.shape[1]))
    sums.update(x, y)
    return sums


def biased(x: Tensor, y: Tensor) -> float:
    return cka_biased(cross(x, y), moments(x), moments(y)).item()


def uncentred(x: Tensor, y: Tensor) -> float:
    return cka_uncentred(cross(x, y), moments(x), moments(y)).item()


def by_rows(x: Tensor, y: Tensor) -> float:
    return cka_rows(cross(x, y), cross(x, x), cross(y, y)).item()


def related(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = normal(n, 6, seed=seed) * power_law(6, 1.0).sqrt() + 1
    return x, x @ normal(6, 4, seed=seed + 1) + normal(n, 4, seed=seed + 2)


def gram_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC_1 of Song et al. from Gram matrices without diagonals."""
    n = len(x)
    K, L = ((rows @ rows.T).fill_diagonal_(0) for rows in (x, y))
    same, sums = (K * L).sum(), K.sum() * L.sum() / ((n - 1) * (n - 2))
    return ((same + sums - 2 * (K @ L).sum() / (n - 2)) / (n * (n - 3))).item()


# --- CKA from all rows


def test_biased_cka_equals_that_of_centred_gram_matrices() -> None:
    x, y = related(40, seed=0)
    H = torch.eye(40, dtype=torch.float64) - 1 / 40
    K, L = (H @ rows @ rows.T @ H for rows in (x, y))
    assert biased(x, y) == pytest.approx(((K * L).sum() / (K.norm() * L.norm())).item(), rel=1e-12)
    assert uncentred(x, y) == pytest.approx(((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item())


def test_sums_about_other_shifts_give_the_same_values() -> None:
    x, y = related(40, seed=1)
    sums = cross(x, y).shifted(torch.full((6,), 3.0), torch.full((4,), -2.0))
    sides = moments(x, torch.full((6,), -1.0)), moments(y, torch.full((4,), 2.0))
    assert cka_biased(sums, *sides).item() == pytest.approx(biased(x, y), rel=1e-12)
    assert cka_uncentred(sums, *sides).item() == pytest.approx(uncentred(x, y), rel=1e-12)
    own = (cross(side, side).shifted(*2 * [torch.full((side.shape[1],), 2.0)]) for side in (x, y))
    assert cka_rows(sums, *own).item() == pytest.approx(by_rows(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(128, 0.80), (512, 0.50), (2048, 0.20)])
def test_unrelated_states_read_their_null_if_biased_and_zero_if_debiased(n: int, expected: float) -> None:
    draws = [(normal(n, 512, seed=seed), normal(n, 512, seed=seed + 100)) for seed in range(max(1, 512 // n))]
    assert np.mean([biased(*pair) for pair in draws]) == pytest.approx(expected, abs=0.01)
    assert null_cka_biased(n, 512) == pytest.approx(expected, abs=0.001)
    assert np.mean([by_rows(*pair) for pair in draws]) == pytest.approx(0.0, abs=0.01)


def test_the_null_of_biased_cka_follows_the_spectra() -> None:
    spectra = power_law(128, 1.0), power_law(64, 0.5)
    n, ranks = 200, [(eigs.sum() ** 2 / eigs.square().sum()).item() for eigs in spectra]
    pairs = [[normal(n, len(e), seed=2 * s + i) * e.sqrt() for i, e in enumerate(spectra)] for s in range(40)]
    expected = 1 / math.sqrt((1 + n / ranks[0]) * (1 + n / ranks[1]))
    assert np.mean([biased(*pair) for pair in pairs]) == pytest.approx(expected, rel=0.03)


def test_streaming_row_version_equals_gram_matrices() -> None:
    x, y = related(50, seed=2)
    assert hsic_rows(cross(x, y)).item() == pytest.approx(gram_hsic(x, y), rel=1e-12)
    expected = gram_hsic(x, y) / math.sqrt(gram_hsic(x, x) * gram_hsic(y, y))
    assert by_rows(x, y) == pytest.approx(expected, rel=1e-12)


def test_row_version_is_the_mean_over_quadruples_of_rows() -> None:
    x, y = (side.numpy() for side in related(7, seed=3))
    i, j, k, m = np.array(list(itertools.permutations(range(7), 4))).T
    of_x, of_y = (((rows[i] - rows[j]) * (rows[k] - rows[m])).sum(1) for rows in (x, y))
    found = hsic_rows(cross(torch.from_numpy(x), torch.from_numpy(y))).item()
    assert found == pytest.approx((of_x * of_y).mean() / 4, rel=1e-12)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_rotation_scale_translation_and_row_order_do_not_matter(seed: int, scale: float, offset: float) -> None:
    x, y = related(30, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    turned = scale * x @ rotation(6, seed)
    moved = turned + scale * offset
    assert biased(moved[order], y[order]) == pytest.approx(biased(x, y), rel=1e-10)
    assert by_rows(moved[order], y[order]) == pytest.approx(by_rows(x, y), rel=1e-10, abs=1e-10)
    assert uncentred(turned[order], y[order]) == pytest.approx(uncentred(x, y), rel=1e-10)


def test_duplicated_rows_change_no_plug_in_value() -> None:
    x, y = related(30, seed=4)
    assert biased(x.repeat(3, 1), y.repeat(3, 1)) == pytest.approx(biased(x, y), rel=1e-12)
    assert uncentred(x.repeat(3, 1), y.repeat(3, 1)) == pytest.approx(uncentred(x, y), rel=1e-12)


@given(st.lists(st.integers(0, 60), max_size=5))
@settings(max_examples=20, deadline=None)
def test_the_same_states_read_one_for_any_split_into_batches(cuts: list[int]) -> None:
    x, _ = related(60, seed=5)
    for y in (x, -3 * x @ rotation(6, seed=6)):
        sums = {"xy": (x, y), "xx": (x, x), "yy": (y, y)}
        streamed = {name: CrossMoments.zeros(torch.zeros(6), torch.zeros(6)) for name in sums}
        for start, end in itertools.pairwise([0, *sorted(cuts), 60]):
            for name, (left, right) in sums.items():
                streamed[name].update(left[start:end], right[start:end])
        assert cka_rows(*streamed.values()).item() == pytest.approx(1.0, rel=1e-12)
        assert biased(x, y) == pytest.approx(1.0, rel=1e-12)


def test_an_offset_takes_uncentred_cka_to_one_and_leaves_the_others() -> None:
    x, y = normal(100, 5, seed=7), normal(100, 5, seed=8)
    assert uncentred(x + 30, y + 30) > 0.99
    assert biased(x + 30, y + 30) == pytest.approx(biased(x, y), rel=1e-9)


class Features(torch.nn.Module):
    """A model with one layer whose output is a fixed map of its input."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        layer = torch.nn.Linear(*weight.T.shape, bias=False)
        layer.weight.data = weight
        self.layers = torch.nn.Sequential(OrderedDict(feature=layer))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("batch", [96, 24])
def test_row_version_equals_torch_cka_which_averages_hsic_over_batches_before_the_ratio(batch: int) -> None:
    package = importlib.import_module("torch_cka")
    inputs = normal(96, 10, seed=9).float()
    models = [Features(normal(8, 10, seed=seed).float()) for seed in (10, 11)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=batch)
    layer = ["layers.feature"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = package.CKA(*models, "x", "y", model1_layers=layer, model2_layers=layer)
        theirs.compare(loader)
        x, y = (model(inputs).double().split(batch) for model in models)
    hsic = [
        np.mean([hsic_rows(cross(*pair)).item() for pair in zip(*sides, strict=True)])
        for sides in ((x, y), (x, x), (y, y))
    ]
    ours = hsic[0] / math.sqrt(hsic[1] * hsic[2])
    assert ours == pytest.approx(theirs.export()["CKA"].item(), abs=1e-5)
    if batch == 96:
        assert by_rows(x[0], y[0]) == pytest.approx(ours, rel=1e-12)


def test_cka_gives_a_reason_where_it_has_no_value() -> None:
    x, flat = normal(8, 3, seed=12), torch.full((8, 3), 0.3)
    still, pair = moments(flat, shift=flat[0]), CrossMoments.zeros(torch.zeros(3), flat[0])
    pair.update(x, flat)
    with pytest.raises(Undefined, match="all states are equal"):
        cka_biased(pair, moments(x), still)
    with pytest.raises(Undefined, match="needs two rows, there are 1"):
        biased(x[:1], x[:1])
    with pytest.raises(Undefined, match="all of them zero"):
        uncentred(x, torch.zeros(8, 3))
    with pytest.raises(Undefined, match="needs 4 rows, there are 3"):
        by_rows(x[:3], x[:3])
    twice = CrossMoments.zeros(flat[0], flat[0])
    twice.update(flat, flat)
    with pytest.raises(Undefined, match="all states are equal"):
        cka_rows(pair, cross(x, x), twice)
    with pytest.raises(Undefined, match="too few rows"):
        by_rows(x, torch.eye(8))
    with pytest.raises(ValueError, match=r"\[8, 7, 8\] rows are not of the same rows"):
        cka_biased(cross(x, x), moments(x[1:]), moments(x))


# --- subspaces


@pytest.mark.parametrize("d", [256, 1024, 4096])
def test_unrelated_subspaces_overlap_by_chance(d: int) -> None:
    bases = [orthonormal_basis(normal(d, 16, seed=seed)) for seed in range(12)]
    mean = np.mean([subspace_overlap(*pair).item() for pair in itertools.combinations(bases, 2)])
    assert mean == pytest.approx(null_subspace_overlap(16, d), rel=0.03)
    assert null_subspace_overlap(16, d) == {256: 0.0625, 1024: 0.015625, 4096: 0.00390625}[d]


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_overlap_is_the_mean_squared_cosine_and_ignores_the_choice_of_basis(seed: int) -> None:
    U, V = orthonormal_basis(normal(12, 4, seed=seed)), orthonormal_basis(normal(12, 4, seed=seed + 1))
    value = subspace_overlap(U, V).item()
    assert value == pytest.approx(principal_angles(U, V).cos().square().mean().item(), rel=1e-10)
    turn = rotation(12, seed)
    mixed = turn @ U @ rotation(4, seed + 2), turn @ V @ rotation(4, seed + 3)
    assert subspace_overlap(*mixed).item() == pytest.approx(value, rel=1e-10)
    assert subspace_overlap(U, U @ rotation(4, seed)).item() == pytest.approx(1.0, rel=1e-12)


def test_angles_of_subspaces_are_in_degrees() -> None:
    axes = torch.eye(5, dtype=torch.float64)
    tilted = torch.stack([axes[0], 0.5 * axes[1] + math.sqrt(0.75) * axes[2]], 1)
    found = subspace_angles(axes[:, :2], tilted)
    torch.testing.assert_close(found, torch.tensor([0.0, 60.0], dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("function", [subspace_overlap, subspace_angles])
def test_all_directions_say_nothing_and_subspaces_of_different_shapes_are_refused(function) -> None:
    axes = torch.eye(4)
    with pytest.raises(Undefined, match="4 directions of 4-dimensional states say nothing"):
        function(axes, axes)
    with pytest.raises(ValueError, match="cannot be compared"):
        function(axes[:, :1], axes[:, :2])


# --- distances


def places(m: int, per_sequence: int = 2, blocks: int = 4) -> tuple[Tensor, Tensor]:
    sequence = torch.arange(m) // per_sequence
    return sequence % blocks, sequence


def cosine_distances(rows: Tensor, sequence: Tensor) -> np.ndarray:
    """Of all pairs from different sequences, by brute force."""
    pairs = [(i, j) for i, j in itertools.combinations(range(len(rows)), 2) if sequence[i] != sequence[j]]
    return np.array([1 - torch.cosine_similarity(rows[i], rows[j], dim=0).item() for i, j in pairs])


def test_stability_equals_scipy_over_pairs_from_different_sequences_and_so_does_every_delete_one_value() -> None:
    x, y = related(24, seed=13)
    block, sequence = places(24)
    distances = Distances.of(x, y, block, sequence)
    for out in (None, 0, 1, 2, 3):
        kept = block != out if out is not None else torch.ones(24, dtype=torch.bool)
        left, right = (cosine_distances(rows[kept], sequence[kept]) for rows in (x, y))
        value = distance_stability(distances if out is None else distances.without(out))
        assert value.item() == pytest.approx(scipy.stats.spearmanr(left, right).statistic, rel=1e-12)


def test_equal_distances_share_their_rank() -> None:
    """States of a few token types, as at the embedding: most distances are ties, whatever the rounding."""
    types = normal(5, 300, seed=14)
    x = types[torch.arange(30) % 5] * normal(30, 1, seed=15).abs()
    y = torch.linspace(0, 1, 5, dtype=torch.float64)[torch.arange(30) % 5, None] * types[0] + x
    sequence, block = torch.arange(30), torch.arange(30) % 3
    distances = Distances.of(x, y, block, sequence)
    assert len(distances.x.unique()) == 11  # one for equal types, ten pairs of types
    left, right = (cosine_distances(rows, sequence).round(9) for rows in (x, y))
    expected = scipy.stats.spearmanr(left, right).statistic
    assert distance_stability(distances).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `SpearmanCorrcoef` will save all:UserWarning")
def test_stability_equals_torchmetrics() -> None:
    package = importlib.import_module("torchmetrics")
    x, y = related(40, seed=16)
    block, sequence = places(40)
    left, right = (torch.from_numpy(cosine_distances(rows, sequence)) for rows in (x, y))
    metric = package.SpearmanCorrCoef().set_dtype(torch.float64)
    metric.update(left, right)
    found = distance_stability(Distances.of(x, y, block, sequence)).item()
    assert found == pytest.approx(metric.compute().item(), abs=1e-6)  # it computes in float32


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_rotation_row_scale_and_row_order_do_not_matter_to_stability(seed: int, scale: float) -> None:
    x, y = related(20, seed)
    block, sequence = places(20)
    plain = distance_stability(Distances.of(x, y, block, sequence)).item()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    turned = (scale * normal(20, 1, seed=seed).exp() * x @ rotation(6, seed))[order]
    changed = distance_stability(Distances.of(turned, y[order], block[order], sequence[order]))
    assert changed.item() == pytest.approx(plain, rel=1e-10, abs=1e-10)
    same = distance_stability(Distances.of(x, -x @ rotation(6, seed + 1), block, sequence))
    assert same.item() == pytest.approx(1.0, rel=1e-12)


def test_unrelated_distances_read_zero() -> None:
    values = []
    for seed in range(10):
        x, y = normal(200, 64, seed=seed), normal(200, 64, seed=seed + 20)
        values.append(distance_stability(Distances.of(x, y, *places(200))).item())
    assert np.mean(values) == pytest.approx(0.0, abs=0.01)


def test_of_many_rows_evenly_spaced_ones_enter_and_those_without_direction_do_not() -> None:
    x = normal(3 * MOST_ROWS, 4, seed=17)
    block, sequence = places(len(x))
    whole, chosen = Distances.of(x, x, block, sequence), torch.arange(0, len(x), 3)
    picked = Distances.of(x[chosen], x[chosen], block[chosen], sequence[chosen])
    assert torch.equal(whole.x, picked.x)
    assert torch.equal(whole.second, picked.second)
    x, sequence, block = x[:10], torch.arange(10), torch.arange(10)
    still = x.clone()
    still[3] = 0
    assert len(Distances.of(x, still, block, sequence).x) == 9 * 8 / 2


def test_stability_gives_a_reason_where_it_has_no_value() -> None:
    x = normal(6, 3, seed=18)
    sequence, block = torch.arange(6), torch.tensor([0, 0, 0, 0, 0, 1])
    with pytest.raises(Undefined, match="all distances equal"):
        distance_stability(Distances.of(x, torch.ones(6, 3), block, sequence))
    with pytest.raises(Undefined, match="fewer than two pairs"):
        distance_stability(Distances.of(x, x, block, torch.zeros(6)))
    with pytest.raises(Undefined, match="fewer than two pairs"):
        distance_stability(Distances.of(x, x, block, sequence).without(0))
    with pytest.raises(ValueError, match="not of the same tokens"):
        Distances.of(x, x[:5], block, sequence)


# --- records


def test_records_compute_from_the_parts_they_name() -> None:
    x, y = related(40, seed=19)
    part = CrossPart(moments(x), moments(y), cross(x, y))
    assert RECORDS["cka_biased"].compute(part).item() == biased(x, y)
    assert RECORDS["cka_uncentred"].compute(part).item() == uncentred(x, y)
    subspaces = tuple(orthonormal_basis(normal(512, 32, seed=seed)) for seed in (20, 21))
    counts = Counts(rows=2048, width=512)
    for name, tolerance in (
        ("subspace_overlap_32", 0.005),
        ("principal_angle_mean_32", 0.5),
        ("principal_angle_max_32", 2.0),
    ):
        null = RECORDS[name].null(counts)
        assert RECORDS[name].compute(subspaces).item() == pytest.approx(null, abs=tolerance)
    assert RECORDS["cka_biased"].null(counts) == 0.2
    assert RECORDS["cka"].null(counts) == RECORDS["distance_stability"].null(counts) == 0.0
    assert {record.family for record in METRICS} == {"similarity"}
    assert {record.direction for record in METRICS} == {"drift"}
