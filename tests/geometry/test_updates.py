from __future__ import annotations

from dataclasses import replace
from math import isnan, nan, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from limberlm.geometry import Undefined, effective_rank, participation_ratio, rankme, stable_rank
from limberlm.geometry.catalog.updates import METRICS
from limberlm.geometry.low_rank import Bases, Factored, singular_bases
from limberlm.geometry.update_null import (
    RANKS,
    null_alone,
    null_angles,
    null_between,
    null_cosine,
    null_energy,
    null_excess_overlap,
    null_overlap,
    null_ranks,
    random_like,
    rotated_energies,
)
from limberlm.geometry.updates import (
    Change,
    energy_overlap_in,
    energy_overlap_out,
    overlap_grid,
    principal_angle_min,
    relative_update_norm,
    subspace_overlap,
    update_angles,
    update_chordal_distance,
    update_cosine,
    update_effective_rank,
    update_excess_overlap,
    update_grassmann_distance,
    update_norm,
    update_overlap_in,
    update_overlap_out,
    update_participation_ratio,
    update_rankme,
    update_stable_rank,
)
from tests.geometry.clouds import normal, power_law, rotation

ALONE = [update_effective_rank, update_rankme, update_participation_ratio, update_stable_rank]
PAIRS = [
    update_cosine,
    update_overlap_in,
    update_overlap_out,
    update_excess_overlap,
    energy_overlap_in,
    energy_overlap_out,
    principal_angle_min,
    update_grassmann_distance,
    update_chordal_distance,
]


def lora(d_out: int = 24, d_in: int = 18, r: int = 4, *, seed: int = 0) -> Factored:
    return Factored(normal(d_out, r, seed=seed), normal(r, d_in, seed=seed + 500), scale=2.0)


def frame(d: int, r: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(d, r, seed=seed))[0]


def flat(d_out: int, d_in: int, values: Tensor, seed: int) -> Bases:
    return Bases(frame(d_out, len(values), seed), values, frame(d_in, len(values), seed + 10_000))


def test_ranks_are_those_of_the_squared_singular_values_of_the_dense_matrix() -> None:
    update = lora()
    energies = torch.linalg.svdvals(update.dense())[:4].square()
    for ours, spectral in zip(ALONE, (effective_rank, rankme, participation_ratio, stable_rank), strict=True):
        assert ours(update.bases()).item() == pytest.approx(spectral(energies).item(), rel=1e-12)
    assert update_norm(update.bases()).item() == pytest.approx(update.dense().norm().item(), rel=1e-12)
    weight = normal(24, 18, seed=3)
    expected = update.dense().norm() / weight.norm()
    assert relative_update_norm(update.bases(), weight).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", list(RANKS))
def test_rank_nulls_are_those_of_gaussian_factors(name: str) -> None:
    drawn = []
    for seed in range(30):
        product = Factored(normal(200, 8, seed=seed), normal(8, 120, seed=seed + 999)).dense()
        drawn.append(RANKS[name](torch.linalg.svdvals(product)[:8].square()).item())
    null = null_ranks(8, 200, 120, seed=0)[name]
    assert null.value == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / sqrt(20))
    assert null.std_dev == pytest.approx(np.std(drawn), rel=0.6)


def test_gaussian_factors_of_rank_16_at_width_512() -> None:
    """Both factors spread the spectrum: PR = r / (1 + 2 r/d) = 15.06, not the 15.53 of one Gaussian factor."""
    null = null_ranks(16, 512, 512, seed=0, draws=200)
    assert null["update_participation_ratio"].value == pytest.approx(16 / (1 + 2 * 16 / 512), abs=0.1)
    assert null["update_effective_rank"].value == pytest.approx(15.5, abs=0.05)
    assert null["update_rankme"].value == pytest.approx(15.87, abs=0.05)


def test_rank_nulls_hold_for_more_factors_than_dimensions_and_for_full_matrices() -> None:
    assert null_ranks(40, 12, 30, seed=0)["update_effective_rank"].value <= 12
    values = [update_effective_rank(singular_bases(normal(120, 60, seed=s))).item() for s in range(10)]
    null = null_alone("update_effective_rank", Change(singular_bases(normal(120, 60, seed=0))))
    assert null.value == pytest.approx(np.mean(values), rel=0.01)
    share = null_alone("update_effective_rank_share", Change(singular_bases(normal(120, 60, seed=0))))
    assert share.value == pytest.approx(null.value / 60)


def test_cosine_equals_that_of_the_dense_matrices() -> None:
    one, other = lora(), lora(seed=1)
    expected = torch.cosine_similarity(one.dense().flatten(), other.dense().flatten(), 0)
    assert update_cosine(one.bases(), other.bases()).item() == pytest.approx(expected.item(), abs=1e-12)
    assert update_cosine(one.bases(), one.bases()).item() == pytest.approx(1, abs=1e-12)
    assert update_cosine(one.bases(), (-one).bases()).item() == pytest.approx(-1, abs=1e-12)


def test_the_deviation_of_a_chance_cosine() -> None:
    assert null_cosine(128, 96).std_dev == pytest.approx(0.0090, abs=5e-5)
    steep = power_law(8, 2.0)
    pairs = [(flat(128, 96, steep, s), flat(128, 96, torch.ones(5).double(), s + 5000)) for s in range(400)]
    found = [update_cosine(*pair).item() for pair in pairs]
    assert np.std(found) == pytest.approx(0.0090, rel=0.15)
    assert abs(np.mean(found)) < 4 * 0.0090 / 20


@pytest.mark.parametrize(("dim", "chance"), [(256, 0.0625), (1024, 0.0156), (4096, 0.0039)])
def test_chance_overlap_at_rank_16(dim: int, chance: float) -> None:
    null = null_overlap(16, 16, dim)
    assert null.value == pytest.approx(chance, abs=5e-5)
    found = [subspace_overlap(frame(dim, 16, s), frame(dim, 16, s + 700)).item() for s in range(12)]
    assert abs(np.mean(found) - chance) < 4.5 * null.std_dev / sqrt(12)


def test_the_deviation_of_a_chance_overlap() -> None:
    assert null_overlap(16, 16, 256).std_dev == pytest.approx(0.083 / 16, rel=0.005)
    axes = torch.eye(256, 16, dtype=torch.float64)
    found = [subspace_overlap(axes, frame(256, 16, seed)).item() for seed in range(400)]
    assert np.std(found) == pytest.approx(0.083 / 16, rel=0.15)
    assert null_overlap(3, 5, 5).std_dev == 0  # one span is everything


def test_excess_overlap_is_nothing_by_chance_and_one_when_nested() -> None:
    ones = torch.ones(6).double()
    found = [update_excess_overlap(flat(60, 40, ones, s), flat(60, 40, ones[:4], s + 5000)).item() for s in range(300)]
    null = null_excess_overlap(6, 4, 60, 40)
    assert abs(np.mean(found)) < 4 * null.std_dev / sqrt(300)
    assert np.std(found) == pytest.approx(null.std_dev, rel=0.15)
    whole = lora(r=5).bases()
    assert update_excess_overlap(whole, whole.top(2)).item() == pytest.approx(1, abs=1e-12)


def test_excess_overlap_leaves_out_a_side_without_room() -> None:
    one, other = (lora(4, 30, 4, seed=s).bases() for s in (0, 1))
    chance = 4 / 30
    expected = (subspace_overlap(one.right, other.right).item() - chance) / (1 - chance)
    assert update_excess_overlap(one, other).item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(Undefined, match="fill both spaces"):
        update_excess_overlap(*(lora(4, 4, 4, seed=s).bases() for s in (0, 1)))
    assert isnan(null_excess_overlap(3, 3, 3, 3).value)


def test_the_grid_counts_leading_directions_and_ends_in_the_overlap() -> None:
    one, other = frame(20, 4, 0), frame(20, 3, 1)
    grid = overlap_grid(one, other)
    for i in range(4):
        for j in range(3):
            brute = (one[:, : i + 1].T @ other[:, : j + 1]).norm() ** 2 / min(i + 1, j + 1)
            assert grid[i, j].item() == pytest.approx(brute.item(), abs=1e-14)
    assert grid[-1, -1].item() == pytest.approx(subspace_overlap(one, other).item(), abs=1e-14)


def test_energy_overlap_is_the_share_inside_the_earlier_spans() -> None:
    earlier, later = lora(seed=2), lora(r=3, seed=3)
    left, right, matrix = earlier.bases().left, earlier.bases().right, later.dense()
    inside = (left @ left.T @ matrix).norm() ** 2 / matrix.norm() ** 2
    assert energy_overlap_out(earlier.bases(), later.bases()).item() == pytest.approx(inside.item(), abs=1e-12)
    inside = (matrix @ right @ right.T).norm() ** 2 / matrix.norm() ** 2
    assert energy_overlap_in(earlier.bases(), later.bases()).item() == pytest.approx(inside.item(), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_the_energy_null_is_what_random_rotations_of_the_spectrum_give(alpha: float) -> None:
    values = power_law(8, alpha)
    null = null_energy(values, 5, 40)
    drawn = rotated_energies(values, 5, 40, torch.Generator().manual_seed(0), draws=4000)
    assert drawn.mean().item() == pytest.approx(null.value, abs=4 * null.std_dev / sqrt(4000))
    assert drawn.std().item() == pytest.approx(null.std_dev, rel=0.05)
    fixed = frame(40, 5, 1)
    dense = [(fixed.T @ flat(40, 30, values, s).dense()).norm() ** 2 / values.norm() ** 2 for s in range(300)]
    assert np.mean(dense) == pytest.approx(null.value, abs=4 * null.std_dev / sqrt(300))
    assert np.std(dense) == pytest.approx(null.std_dev, rel=0.2)


def test_equal_shares_give_the_deviation_of_the_overlap() -> None:
    assert null_energy(torch.ones(7), 5, 40).std_dev == pytest.approx(null_overlap(5, 7, 40).std_dev * 5 / 7, rel=1e-12)
    assert null_energy(torch.ones(40), 5, 40).std_dev == pytest.approx(0, abs=1e-9)


def test_angles_and_distances_equal_scipys() -> None:
    one, other = lora(r=5).bases(), lora(r=3, seed=1).bases()
    sides = {side: np.sort(subspace_angles(*spans)) for side, spans in _spans(one, other).items()}
    for side, angles in sides.items():
        np.testing.assert_allclose(update_angles(one, other, side), angles, atol=1e-12)
    both = list(sides.values())
    assert principal_angle_min(one, other).item() == pytest.approx(min(a[0] for a in both), abs=1e-12)
    for metric, distance in (
        (update_grassmann_distance, lambda a: np.linalg.norm(a)),
        (update_chordal_distance, lambda a: np.linalg.norm(np.sin(a))),
    ):
        assert metric(one, other).item() == pytest.approx(np.mean([distance(a) for a in both]), abs=1e-12)


def _spans(one: Bases, other: Bases) -> dict[str, tuple]:
    return {"in": (one.right.numpy(), other.right.numpy()), "out": (one.left.numpy(), other.left.numpy())}


def test_the_angle_null_is_what_random_spans_give() -> None:
    ones = torch.ones(4).double()
    null = null_angles(4, 4, 50, 30, seed=0, draws=200)
    pairs = [(flat(50, 30, ones, s), flat(50, 30, ones, s + 5000)) for s in range(100)]
    for name, metric in (
        ("principal_angle_min", principal_angle_min),
        ("grassmann_distance", update_grassmann_distance),
        ("chordal_distance", update_chordal_distance),
    ):
        found = [metric(*pair).item() for pair in pairs]
        assert np.mean(found) == pytest.approx(null[name].value, abs=5 * null[name].std_dev / 10)


def test_a_random_adapter_has_the_norm_and_spectrum_of_the_one_it_stands_for() -> None:
    update = lora().bases()
    made = random_like(update, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.linalg.svdvals(made.dense())[:4], update.values)
    assert torch.equal(made.dense(), random_like(update, torch.Generator().manual_seed(0)).dense())
    assert abs(update_cosine(update, made)) < 5 * null_cosine(24, 18).std_dev


def test_random_directions_prefer_none() -> None:
    values = torch.tensor([4.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    update = Bases(torch.eye(16, 4, dtype=torch.float64), values, torch.eye(12, 4, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_like(update, generator).dense() for _ in range(4000)])
    error = drawn.std(0) / sqrt(len(drawn))
    assert bool((drawn.mean(0).abs() < 5 * error).all())  # without Haar's signs the first entry lies 48 errors off


@given(seed=st.integers(0, 300), scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_rotation_scale_and_gauge_change_no_metric(seed: int, scale: float) -> None:
    one, other = lora(seed=seed), lora(r=3, seed=seed + 50)
    U, V, M = rotation(24, seed), rotation(18, seed), rotation(4, seed) * 3
    moved = Factored(scale * U @ one.left @ torch.linalg.inv(M), M @ one.right @ V, one.scale)
    later = Factored(U @ other.left, other.right @ V, other.scale * scale)
    for metric in ALONE:
        assert metric(moved.bases()).item() == pytest.approx(metric(one.bases()).item(), rel=1e-10)
    for metric in PAIRS:
        expected = metric(one.bases(), other.bases()).item()
        assert metric(moved.bases(), later.bases()).item() == pytest.approx(expected, abs=1e-10)
    assert update_norm(moved.bases()).item() == pytest.approx(scale * one.dense().norm().item(), rel=1e-10)


def test_a_stage_that_changed_nothing_has_a_norm_of_zero_and_a_reason_for_the_rest() -> None:
    zero, one = Factored(torch.zeros(24, 4), normal(4, 18, seed=0)).bases(), lora().bases()
    assert update_norm(zero).item() == 0
    assert relative_update_norm(zero, normal(24, 18, seed=0)).item() == 0
    for metric in ALONE:
        with pytest.raises(Undefined, match="the change is zero"):
            metric(zero)
    for metric in PAIRS:
        for pair in ((zero, one), (one, zero)):
            with pytest.raises(Undefined, match=r"changed nothing|no directions"):
                metric(*pair)
    with pytest.raises(Undefined, match="the weight is zero"):
        relative_update_norm(one, torch.zeros(24, 18))


def test_a_z_score_is_the_distance_from_chance() -> None:
    assert null_overlap(16, 16, 256).z(0.0625 + 0.083 / 16) == pytest.approx(1, rel=0.005)
    assert isnan(null_overlap(3, 5, 5).z(1.0))
    assert isnan(null_excess_overlap(3, 3, 3, 3).z(1.0))


def full_change(seed: int) -> Change:
    weight, update = normal(24, 18, seed=seed + 90), lora(seed=seed)
    bases, random = singular_bases(weight), random_like(update.bases(), torch.Generator().manual_seed(seed))
    return Change(
        update=update.bases(),
        inner=4,
        weight=weight,
        stored=torch.bfloat16,
        base=bases,
        before=bases,
        after=singular_bases(weight + update.dense()),
        random=singular_bases(weight + random.dense()),
        span=frame(18, 4, seed),
        start=frame(18, 4, seed + 1),
    )


@pytest.mark.parametrize("metric", METRICS, ids=[metric.name for metric in METRICS])
def test_every_record_computes_from_changes_and_says_what_it_misses(metric) -> None:
    one, other = full_change(0), full_change(1)
    if metric.name != "output_drift":  # computed from sums over inputs
        value = metric.compute(one if metric.needs == "update" else (one, other))
        assert (value.ndim, value.dtype) == (0, torch.float64)
        null = null_alone(metric.name, one) if metric.needs == "update" else null_between(metric.name, one, other)
        assert null is None or not isnan(null.value)
        assert isnan(null.z(float(value)) if null else nan) == (null is None or isnan(null.std_dev))
    for text in (metric.title, metric.formula, metric.source, metric.bounds, metric.note, metric.misses, metric.oracle):
        assert text
    assert metric.family == "updates"


def test_every_field_a_metric_requires_exists_and_its_absence_is_no_null() -> None:
    bare = Change(lora().bases(), 4)
    required = {field for metric in METRICS for field in metric.requires}
    assert required == {"weight", "base", "before", "after", "stored", "start", "span"}
    assert all(getattr(bare, field) is None for field in required)
    assert null_alone("intruder_dimensions", bare) is None
    assert null_alone("update_norm", bare) is None
    assert null_between("update_cosine", bare, replace(bare, update=bare.update.top(0))) is None
