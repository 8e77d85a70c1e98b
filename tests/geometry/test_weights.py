from __future__ import annotations

from math import isclose, pi, sqrt

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from limberlm.geometry import Undefined, effective_rank
from limberlm.geometry.low_rank import Factored, singular_bases
from limberlm.geometry.update_null import null_energy, rotated_energies
from limberlm.geometry.updates import leading_directions, update_cosine
from limberlm.geometry.weights import (
    DriftSums,
    approximate_leading,
    intruder_dimensions,
    mean_rotation,
    merge_residue,
    output_drift,
    principal_energy,
    refuse_rounded,
    rotation,
)
from tests.geometry.clouds import normal
from tests.geometry.clouds import rotation as turn


def spread(d_out: int, d_in: int, seed: int, decay: float = 0.9) -> Tensor:
    """A weight with well separated singular values."""
    k = min(d_out, d_in)
    values = decay ** torch.arange(k, dtype=torch.float64)
    return turn(d_out, seed)[:, :k] * values @ turn(d_in, seed + 1)[:, :k].T


def lora(d_out: int, d_in: int, r: int = 4, *, seed: int = 0, size: float = 1.0) -> Factored:
    return Factored(normal(d_out, r, seed=seed), normal(r, d_in, seed=seed + 500), size / sqrt(d_out * d_in * r))


def brute_intruders(tuned: Tensor, base: Tensor, k: int = 10, threshold: float = 0.5) -> int:
    u, v = np.linalg.svd(tuned.numpy())[0], np.linalg.svd(base.numpy(), full_matrices=False)[0]
    return sum(max(abs(float(v[:, j] @ u[:, i])) for j in range(v.shape[1])) < threshold for i in range(k))


def test_principal_energy_is_the_share_inside_the_leading_left_directions_of_the_base() -> None:
    weight, update = normal(48, 40, seed=0), lora(48, 40)
    leading = np.linalg.svd(weight.numpy())[0][:, :16]
    inside = np.linalg.norm(leading.T @ update.dense().numpy()) ** 2 / np.linalg.norm(update.dense().numpy()) ** 2
    bases = singular_bases(weight)
    assert principal_energy(update.bases(), bases).item() == pytest.approx(inside, rel=1e-12)
    assert principal_energy(bases.top(16), bases).item() == pytest.approx(1, abs=1e-12)
    with pytest.raises(Undefined, match="zero"):
        principal_energy(bases.top(0), bases)


def test_principal_energy_by_chance_is_k_of_d_out_and_20_rotations_agree() -> None:
    values = lora(256, 128, 16).bases().values
    null = null_energy(values, leading_directions((256, 128)), 256)
    assert null.value == 16 / 256
    drawn = rotated_energies(values, 16, 256, torch.Generator().manual_seed(0))
    assert len(drawn) == 20
    assert drawn.mean().item() == pytest.approx(null.value, abs=4 * null.std_dev / sqrt(20))
    assert drawn.std().item() == pytest.approx(null.std_dev, rel=0.6)


@pytest.mark.parametrize("size", [0.0, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("shape", [(48, 40), (40, 48)])
def test_intruders_equal_a_count_over_all_pairs_of_vectors(size: float, shape: tuple[int, int]) -> None:
    base = spread(*shape, seed=3)
    tuned = base + lora(*shape, seed=1, size=size).dense()
    expected = brute_intruders(tuned, base)
    bases = singular_bases(base)
    assert intruder_dimensions(singular_bases(tuned), bases).item() == expected
    assert intruder_dimensions(tuned, bases).item() == expected
    assert intruder_dimensions(tuned, bases, fast=True).item() == expected
    if size == 0.0:
        assert expected == 0


def test_planted_intruders_are_counted_one_by_one() -> None:
    base = singular_bases(spread(64, 40, seed=0))
    outside = turn(64, 0)[:, 40:]  # orthogonal to every left singular vector of the base
    for planted in (0, 1, 3):
        added = 5 * outside[:, :planted] @ turn(40, 1)[:, :planted].T
        assert intruder_dimensions(base.dense() + added, base).item() == planted


@pytest.mark.parametrize(("d", "nearest"), [(256, 0.19), (1024, 0.11)])
def test_random_vectors_are_intruders(d: int, nearest: float) -> None:
    """Largest |cosine| of a random vector with d orthonormal ones: the largest of d coordinates of a unit vector."""
    unit = torch.nn.functional.normalize(normal(200, d, seed=d), dim=1)
    assert unit.abs().amax(1).mean().item() == pytest.approx(nearest, abs=0.01)
    if d == 256:
        base, other = (singular_bases(normal(d, d, seed=seed)) for seed in (1, 2))
        assert intruder_dimensions(other, base).item() == 10


def test_the_fast_route_bounds_its_angles_and_gives_up_where_it_cannot() -> None:
    for shape in ((300, 200), (200, 300)):
        matrix = spread(*shape, seed=5, decay=0.8)
        found, bound = approximate_leading(matrix, 10)
        exact = singular_bases(matrix).top(10)
        for ours, true in ((found.left, exact.left), (found.right, exact.right)):
            angles = (1 - ((ours * true).sum(0) ** 2).clamp(max=1)).sqrt()
            assert angles.max() <= max(bound, 1e-7)
        assert bound < 0.01
    assert approximate_leading(normal(300, 200, seed=0), 10) is None  # a bulk without gaps
    assert approximate_leading(torch.eye(40), 10) is None
    assert approximate_leading(torch.eye(8), 10) is None


def test_the_bound_of_the_fast_route_holds_where_it_is_not_tiny() -> None:
    tested = 0
    for seed in range(40):
        matrix = spread(120, 90, seed=2 * seed, decay=0.95) + 0.002 * normal(120, 90, seed=seed)
        found = approximate_leading(matrix, 4, tolerance=1.0)
        if found is not None:
            exact = singular_bases(matrix).top(4)
            sines = (1 - ((found[0].left * exact.left).sum(0) ** 2).clamp(max=1)).sqrt()
            assert sines.max() <= max(found[1], 1e-7)
            tested += 1
    assert tested > 10


def test_the_fast_route_leaves_random_states_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    approximate_leading(spread(60, 50, seed=0), 5)
    assert torch.equal(torch.rand(2), expected)


def test_a_count_near_the_threshold_is_left_to_the_full_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    base = singular_bases(spread(64, 40, seed=0))
    planted = base.left[:, :4] @ torch.tensor([0.5, 0.5, 0.5, 0.5]).double()  # cosine 0.5 to four of the base's
    tuned = base.dense() + 50 * planted[:, None] * base.right[:, -1]
    calls = []
    monkeypatch.setattr(
        "limberlm.geometry.weights.singular_bases", lambda matrix: calls.append(1) or singular_bases(matrix)
    )
    monkeypatch.setattr(
        "limberlm.geometry.weights.approximate_leading", lambda matrix, k: (singular_bases(matrix).top(k), 0.01)
    )
    intruder_dimensions(tuned, base, fast=True)
    assert calls == [1]


def test_rotation_equals_scipys_angles_and_is_zero_without_change() -> None:
    before, after = spread(40, 36, seed=0), spread(40, 36, seed=0) + lora(40, 36, size=0.5).dense()
    one, other = singular_bases(before), singular_bases(after)
    for side, ours, theirs in (("out", one.left, other.left), ("in", one.right, other.right)):
        expected = np.sort(subspace_angles(ours[:, :16].numpy(), theirs[:, :16].numpy()))
        np.testing.assert_allclose(rotation(one, other, side), expected, atol=1e-10)
        assert mean_rotation(one, other, side).item() == pytest.approx(np.sqrt((expected**2).mean()), abs=1e-10)
        assert mean_rotation(one, one, side).item() < 1e-14
    with pytest.raises(Undefined, match="zero"):
        rotation(one.top(0), one, "in")


@pytest.mark.parametrize("angle", [1e-3, 1e-4])
def test_a_known_small_turn_of_a_leading_direction_is_read_to_six_digits(angle: float) -> None:
    axes = torch.eye(40, dtype=torch.float64)
    values = torch.cat([torch.full((16,), 2.0), torch.full((24,), 1.0)]).double() - torch.arange(40) * 1e-3
    turned = axes.clone()
    turned[[15, 15, 16, 16], [15, 16, 15, 16]] = torch.tensor(
        [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
    )
    one, other = singular_bases(axes * values), singular_bases(turned * values)
    assert rotation(one, other, "out")[-1].item() == pytest.approx(angle, rel=1e-6)
    assert rotation(one, other, "in").max().item() < 1e-12


def test_output_drift_by_small_sums_equals_the_explicit_routes() -> None:
    update, weight, inputs = lora(20, 30, 3, size=2.0), normal(20, 30, seed=1), normal(100, 30, seed=2) + 1
    sums = DriftSums.zeros(update)
    for batch in inputs.split(17):
        sums.update(batch, batch @ weight.T, update)
    expected = (inputs @ update.dense().T).norm() / (inputs @ weight.T).norm()
    assert output_drift(update, sums).item() == pytest.approx(expected.item(), rel=1e-12)
    moment = inputs.T @ inputs / len(inputs)
    traces = [((matrix @ moment) * matrix).sum() for matrix in (update.dense(), weight)]
    assert output_drift(update, sums).item() == pytest.approx((traces[0] / traces[1]).sqrt().item(), rel=1e-12)


def test_output_drift_of_a_continued_adapter_and_of_merged_sums() -> None:
    difference = lora(20, 30, 3) - lora(20, 30, 3, seed=4)
    weight, inputs = normal(20, 30, seed=1), normal(60, 30, seed=2)
    parts = []
    for half in inputs.chunk(2):
        parts.append(DriftSums.zeros(difference))
        parts[-1].update(half, half @ weight.T, difference)
    expected = (inputs @ difference.dense().T).norm() / (inputs @ weight.T).norm()
    assert output_drift(difference, parts[0].merge(parts[1])).item() == pytest.approx(expected.item(), rel=1e-12)


def test_output_drift_is_zero_without_change_and_undefined_without_output() -> None:
    update = Factored(torch.zeros(5, 2), normal(2, 4, seed=0))
    sums = DriftSums.zeros(update)
    with pytest.raises(Undefined, match="outputs are all zero"):
        output_drift(update, sums)
    sums.update(normal(3, 4, seed=1), normal(3, 5, seed=2), update)
    assert output_drift(update, sums).item() == 0


def test_merge_residue_is_what_the_cast_loses() -> None:
    weight = (normal(64, 48, seed=0) / 7).bfloat16()
    residues = []
    for size in (1.0, 0.01, 0.001):
        update = lora(64, 48, size=size * float(weight.float().norm())).dense()
        merged = (weight.double() + update).bfloat16().double()
        lost = (merged - weight.double() - update).norm() / update.norm()
        found = merge_residue(update, weight, torch.bfloat16).item()
        assert found == pytest.approx(lost.item(), rel=1e-12)
        residues.append(found)
        assert merge_residue(update, weight, torch.float64).item() == 0
    assert residues[0] < 0.03 < 0.1 < residues[1] < 0.5 < residues[2]
    with pytest.raises(Undefined, match="zero"):
        merge_residue(torch.zeros(2, 2), torch.ones(2, 2), torch.bfloat16)


ROWS = {  # relative size, base in 16 bits: rank, effective rank, cosine to the truth, share of exact zeros
    (1e-3, False): (512, 214, 0.52, 0.69),
    (2e-4, False): (512, 280, 0.24, 0.90),
    (1e-3, True): (512, 144, 0.64, 0.78),
    (2e-4, True): (512, 245, 0.30, 0.95),
}


@pytest.mark.parametrize(("relative", "sixteen"), ROWS)
def test_every_merge_subtract_of_the_table_reads_as_printed_and_is_refused(relative: float, sixteen: bool) -> None:
    d, (rank, effective, cosine, zeros) = 512, ROWS[relative, sixteen]
    base = (normal(d, d, seed=0) / sqrt(d)).float()
    base = base.bfloat16().float() if sixteen else base
    truth = lora(d, d, 16, seed=2).dense()
    truth *= relative * base.norm() / truth.norm()
    before, after = base.bfloat16(), (base.double() + truth).bfloat16()
    difference = singular_bases(after.double() - before.double())
    assert difference.rank == rank
    assert effective_rank(difference.values.square()).item() == pytest.approx(effective, rel=0.02)
    assert update_cosine(difference, singular_bases(truth)).item() == pytest.approx(cosine, abs=0.01)
    assert (after == before).double().mean().item() == pytest.approx(zeros, abs=0.01)
    with pytest.raises(Undefined, match=rf"{100 * zeros:.0f} % of their difference is exactly zero|exactly zero"):
        refuse_rounded(before, after)
    refuse_rounded(base, (base.double() + truth).float())  # in 32 bits there is nothing to refuse


def test_a_16_bit_difference_of_too_high_a_rank_is_refused_where_the_rank_is_known() -> None:
    base = (normal(64, 64, seed=0) / 8).bfloat16()
    after = (base.double() + lora(64, 64, 4, size=8.0).dense()).bfloat16()
    refuse_rounded(base, after)
    with pytest.raises(Undefined, match="rank 64, above the adapter's 4"):
        refuse_rounded(base, after, rank=4)
    refuse_rounded(base, after, rank=64)


def test_what_is_no_rounding_is_not_refused() -> None:
    base = (normal(64, 48, seed=0) / 8).bfloat16()
    refuse_rounded(base, base.clone(), rank=1)  # nothing changed
    refuse_rounded(base, (base + 1).bfloat16())  # a large change
    refuse_rounded(base, base.float())
    some = base.clone()
    some[:5] += 1  # most rows belong to tokens that no text held
    refuse_rounded(base, some)


def test_leading_directions_never_fill_a_side() -> None:
    assert [leading_directions((d, 999)) for d in (1, 2, 10, 32, 4096)] == [1, 1, 5, 16, 16]


def test_a_right_angle_is_half_pi() -> None:
    axes = torch.eye(8, dtype=torch.float64)
    one = singular_bases(axes[:, :4] @ torch.diag(torch.tensor([4.0, 3, 2, 1])).double() @ axes[:4])
    other = singular_bases(axes[:, 4:] @ torch.diag(torch.tensor([4.0, 3, 2, 1])).double() @ axes[:4])
    assert isclose(mean_rotation(one, other, "out").item(), pi / 2)
