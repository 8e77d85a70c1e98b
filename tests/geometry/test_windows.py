from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import Undefined, effective_rank
from limberlm.geometry.averages import mean
from limberlm.geometry.catalog import trajectories as catalog
from limberlm.geometry.pairs import PairSums
from limberlm.geometry.trajectories import WINDOW
from limberlm.geometry.windows import (
    diff_erank,
    diff_erank_entropy,
    hsic_vectors,
    matrix_entropy,
    null_diff_erank,
    null_matrix_entropy,
    spectral_values,
    token_gram,
    trajectory_rank,
    trajectory_rank_parts,
    trajectory_rank_pooled,
)
from tests.geometry.clouds import normal, power_law, rotation

RECORDS = {record.name: record for record in catalog.METRICS}
SHAPES = [(64, 16), (64, 100), (7, 3), (5, 9)]


def windows(points: int, d: int, seed: int = 0, count: int = 4) -> Tensor:
    steps = normal(count, points, d, seed=seed) * power_law(d, 0.7).sqrt()
    return steps + 0.3 * steps.cumsum(1) + 1


def values_and_pairs(states: Tensor) -> dict[str, Tensor]:
    return {**spectral_values(states), "hsic": hsic_vectors(states) @ hsic_vectors(states).T}


# --- entropies


@pytest.mark.parametrize(("points", "d"), SHAPES)
def test_diff_erank_equals_the_covariance_of_centred_unit_rows(points: int, d: int) -> None:
    states = windows(points, d)
    expected = []
    for window in states:
        units = torch.nn.functional.normalize(window - window.mean(0), dim=1)
        covariance = units.T @ units / points  # [d, d]
        expected.append(effective_rank(torch.linalg.eigvalsh(covariance).clamp(min=0)).log())
    torch.testing.assert_close(diff_erank_entropy(states), torch.stack(expected), rtol=1e-12, atol=1e-12)
    found = diff_erank(diff_erank_entropy(states))
    assert found.item() == pytest.approx(math.exp(sum(expected) / len(expected)), rel=1e-12)
    assert found <= min(points - 1, d)


@pytest.mark.parametrize(("points", "d"), SHAPES)
def test_matrix_entropy_equals_the_singular_values_of_the_window(points: int, d: int) -> None:
    states = windows(points, d)
    shares = torch.linalg.svdvals(states).square()
    shares = shares / shares.sum(1, keepdim=True)
    expected = -(shares * shares.log()).sum(1) / math.log(min(points, d))
    torch.testing.assert_close(matrix_entropy(states), expected, rtol=1e-12, atol=1e-12)


def test_matrix_entropy_is_the_limit_of_the_renyi_entropies() -> None:
    states = windows(20, 8, count=1)
    p = torch.linalg.eigvalsh(token_gram(states)[0]).clamp(min=0)
    p = p / p.sum()
    near = [(p**alpha).sum().log().item() / (1 - alpha) / math.log(8) for alpha in (1 - 1e-4, 1 + 1e-4)]
    assert sum(near) / 2 == pytest.approx(matrix_entropy(states).item(), abs=1e-7)


def test_bounds_are_reached_by_orthonormal_and_by_equal_tokens() -> None:
    basis = rotation(16, seed=1)[None]
    assert matrix_entropy(basis).item() == pytest.approx(1.0, abs=1e-12)
    assert diff_erank(diff_erank_entropy(basis)).item() == pytest.approx(15.0, rel=1e-12)
    line = torch.outer(torch.linspace(1, 2, 16, dtype=torch.float64), normal(8, seed=2))[None]
    assert matrix_entropy(line).item() == pytest.approx(0.0, abs=1e-12)
    assert diff_erank(diff_erank_entropy(line)).item() == pytest.approx(1.0, abs=1e-12)


def test_a_state_equal_to_the_mean_has_no_direction() -> None:
    window = windows(9, 5, count=1)
    with_mean = torch.cat([window, window.mean(1, keepdim=True)], 1)
    torch.testing.assert_close(diff_erank_entropy(with_mean), diff_erank_entropy(window), rtol=1e-12, atol=0)


def test_independent_states_read_the_nulls() -> None:
    for d in (16, 64, 256):
        states = normal(300, WINDOW, d, seed=d)
        values = spectral_values(states)
        assert diff_erank(values["diff_erank"]).item() == pytest.approx(null_diff_erank(d), rel=0.005)
        assert mean(values["matrix_entropy"]).item() == pytest.approx(null_matrix_entropy(d), abs=0.006)
        rms = torch.nn.functional.normalize(states, dim=2)
        assert mean(matrix_entropy(rms)).item() == pytest.approx(null_matrix_entropy(d), abs=0.001)
        assert trajectory_rank_pooled(values["trajectory_rank"]).item() == pytest.approx(d, rel=0.01)
        assert trajectory_rank(values["trajectory_rank"]).item() == pytest.approx(d, rel=0.015)
        vectors = hsic_vectors(states[:100])
        cosines = (vectors @ vectors.T)[torch.triu_indices(100, 100, 1).unbind()]
        assert cosines.mean().item() == pytest.approx(0.0, abs=0.005)
    with pytest.raises(Undefined, match="one dimension"):
        null_matrix_entropy(1)


# --- debiased participation ratio within a window


def over_tuples(gram: Tensor) -> tuple[float, float]:
    """Means of |x1 - x2|^2 |x3 - x4|^2 / 4 and ((x1 - x2)'(x3 - x4))^2 / 4 over quadruples of different rows."""
    k = gram.tolist()
    above, below = [], []
    for a, b, c, d in itertools.permutations(range(len(k)), 4):
        above.append((k[a][a] - 2 * k[a][b] + k[b][b]) * (k[c][c] - 2 * k[c][d] + k[d][d]) / 4)
        below.append((k[a][c] - k[a][d] - k[b][c] + k[b][d]) ** 2 / 4)
    return math.fsum(above) / len(above), math.fsum(below) / len(below)


@pytest.mark.parametrize(("points", "d"), [(4, 6), (6, 3), (9, 20)])
def test_parts_equal_means_over_quadruples_of_rows(points: int, d: int) -> None:
    states = windows(points, d, count=2)
    parts = trajectory_rank_parts(states)
    for window, found in zip(states, parts.tolist(), strict=True):
        assert found == pytest.approx(over_tuples(window @ window.T), rel=1e-12)


def test_parts_equal_the_package_that_defines_them() -> None:
    package = importlib.import_module("dimensionality")
    states = windows(WINDOW, 40)
    above, below = trajectory_rank_parts(states).unbind(1)
    theirs = [package.participation_ratio(window.numpy(), return_all=True)["row"] for window in states]
    assert (above / below).tolist() == pytest.approx(theirs, rel=1e-12)
    ratios = torch.tensor(theirs, dtype=torch.float64)
    torch.testing.assert_close(trajectory_rank(trajectory_rank_parts(states)), ratios.mean(), rtol=1e-12, atol=0)
    pooled = trajectory_rank_pooled(trajectory_rank_parts(states))
    torch.testing.assert_close(pooled, above.sum() / below.sum(), rtol=1e-12, atol=0)


def test_parts_are_unbiased_for_rows_of_a_power_law() -> None:
    eigs = power_law(30, 0.7)
    parts = trajectory_rank_parts(normal(4000, 8, 30, seed=3) * eigs.sqrt()).mean(0)
    assert parts.tolist() == pytest.approx([eigs.sum().item() ** 2, eigs.square().sum().item()], rel=0.03)


def test_sequences_without_a_rank_are_left_out() -> None:
    parts = torch.tensor([[6.0, 2.0], [5.0, -0.1], [0.0, 0.0], [math.nan, math.nan], [10.0, 2.0]])
    assert trajectory_rank(parts).item() == 4.0
    assert trajectory_rank_pooled(parts).item() == pytest.approx(21 / 3.9)
    for metric in (trajectory_rank, trajectory_rank_pooled):
        with pytest.raises(Undefined):
            metric(parts[2:3])
        with pytest.raises(Undefined):
            metric(parts[3:4])
        with pytest.raises(ValueError, match="parts are"):
            metric(parts[0])
    with pytest.raises(Undefined, match="none of the values is defined"):
        diff_erank(torch.tensor([math.nan]))


# --- CKA of two windows


def hsic(x: Tensor, y: Tensor) -> float:
    """HSIC1 from the streaming sums s, T, C, a, b, e of two aligned sets of rows."""
    n = len(x)
    sx, sy, cross = x.sum(0), y.sum(0), x.T @ y
    x2, y2 = x.square().sum(1), y.square().sum(1)
    a, b, e = x.T @ y2, y.T @ x2, (x2 * y2).sum()
    first = cross.square().sum() - e
    second = (sx @ sx - x2.sum()) * (sy @ sy - y2.sum()) / ((n - 1) * (n - 2))
    third = 2 * (sx @ cross @ sy - sx @ a - sy @ b + e) / (n - 2)
    return ((first + second - third) / (n * (n - 3))).item()


def hsic_over_tuples(x: Tensor, y: Tensor) -> float:
    """Mean of (x1 - x2)'(x3 - x4) (y1 - y2)'(y3 - y4) / 4 over quadruples of different rows."""
    k, g = (x @ x.T).tolist(), (y @ y.T).tolist()

    def product(m: list[list[float]], a: int, b: int, c: int, d: int) -> float:
        return m[a][c] - m[a][d] - m[b][c] + m[b][d]

    terms = [product(k, *i) * product(g, *i) / 4 for i in itertools.permutations(range(len(k)), 4)]
    return math.fsum(terms) / len(terms)


@pytest.mark.parametrize(("points", "d"), [(64, 16), (64, 100), (7, 3)])
def test_inner_products_are_debiased_cka(points: int, d: int) -> None:
    states = windows(points, d, seed=4)
    vectors = hsic_vectors(states)
    assert vectors.shape == (4, points * points)
    found = vectors @ vectors.T
    for i, j in itertools.product(range(4), repeat=2):
        x, y = states[i], states[j]
        expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
        assert found[i, j].item() == pytest.approx(expected, rel=1e-10, abs=1e-11)


def test_the_streaming_formula_is_the_mean_over_quadruples() -> None:
    x, y = windows(7, 4, seed=5, count=2)
    assert hsic(x, y) == pytest.approx(hsic_over_tuples(x, y), rel=1e-11)
    vectors = hsic_vectors(torch.stack([x, y]))
    expected = hsic_over_tuples(x, y) / math.sqrt(hsic_over_tuples(x, x) * hsic_over_tuples(y, y))
    assert (vectors[0] @ vectors[1]).item() == pytest.approx(expected, rel=1e-11)


def test_a_turned_scaled_and_shifted_window_takes_the_same_path() -> None:
    states = windows(32, 6, seed=6, count=1)
    other = 3 * states @ rotation(6, seed=7) - 5
    vectors = hsic_vectors(torch.cat([states, other]))
    assert (vectors[0] @ vectors[1]).item() == pytest.approx(1.0, abs=1e-12)


def test_the_metric_is_the_mean_over_pairs_of_sequences() -> None:
    shared = windows(WINDOW, 10, seed=8, count=1)
    states = shared + windows(WINDOW, 10, seed=9, count=6)
    vectors, sequence = hsic_vectors(states), torch.arange(6)
    pairs = PairSums.of_kernel(vectors @ vectors.T, sequence % 3, sequence, blocks=3)
    found = RECORDS["trajectory_cka"].compute(pairs).item()
    each = [(vectors[i] @ vectors[j]).item() for i, j in itertools.combinations(range(6), 2)]
    assert found == pytest.approx(sum(each) / len(each), rel=1e-12)
    assert found > 0.1


# --- all of them


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-10, 10))
@settings(max_examples=25, deadline=None)
def test_rotation_scale_and_translation_do_not_matter_where_stated(seed: int, scale: float, offset: float) -> None:
    states, turn = windows(12, 5, seed=seed), rotation(5, seed)
    before, turned, moved = (values_and_pairs(x) for x in (states, scale * states @ turn, states + offset))
    for name, value in before.items():
        if name == "trajectory_rank":  # the parts scale, their ratio does not
            value, turned[name], moved[name] = (x[:, 0] / x[:, 1] for x in (value, turned[name], moved[name]))
        torch.testing.assert_close(turned[name], value, rtol=1e-9, atol=1e-10)
        if name != "matrix_entropy":
            torch.testing.assert_close(moved[name], value, rtol=1e-9, atol=1e-10)


def test_one_pass_gives_what_the_functions_give_one_by_one() -> None:
    states = windows(WINDOW, 20)
    values = spectral_values(states)
    assert torch.equal(values["diff_erank"], diff_erank_entropy(states))
    assert torch.equal(values["matrix_entropy"], matrix_entropy(states))
    assert torch.equal(values["trajectory_rank"], trajectory_rank_parts(states))
    for short in (states.float(), states.bfloat16()):
        assert torch.equal(matrix_entropy(short), matrix_entropy(short.double()))
        assert matrix_entropy(short).dtype == torch.float64


def test_a_large_mean_costs_no_digits_that_matter() -> None:
    states = windows(WINDOW, 32)
    moved = values_and_pairs(states + 3000)
    for name, value in values_and_pairs(states).items():
        if name != "matrix_entropy":
            torch.testing.assert_close(moved[name], value, rtol=1e-6, atol=1e-6)


def test_a_sequence_without_a_value_is_nan_and_alone() -> None:
    states = windows(10, 4)
    states[1] = 0.0
    states[2] = 0.1  # constant up to rounding
    values = spectral_values(states)
    assert values["diff_erank"].isnan().tolist() == [False, True, True, False]
    assert values["matrix_entropy"].isnan().tolist() == [False, True, False, False]
    assert values["trajectory_rank"][1:3].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert hsic_vectors(states).isnan().all(1).tolist() == [False, True, True, False]
    states[3, 2, 1] = math.nan
    assert torch.equal(spectral_values(states)["diff_erank"][0], values["diff_erank"][0])
    assert matrix_entropy(states)[3].isnan()
    assert matrix_entropy(torch.ones(2, 5, 1)).isnan().all()


def test_windows_too_short_for_a_debiased_value_are_refused() -> None:
    for shape in ((2, 3, 8), (64, 8)):
        with pytest.raises(ValueError, match="W at least 4"):
            spectral_values(torch.zeros(shape))
