from __future__ import annotations

import itertools
import math

import dimensionality
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry import between_blocks
from limberlm.geometry.between_blocks import BlockProducts, CrossProducts, cka, participation_ratio_debiased
from limberlm.geometry.cross import CrossMoments
from limberlm.geometry.similarity import cka_rows, hsic_rows
from limberlm.geometry.spectrum import eigenvalues, participation_ratio
from limberlm.geometry.statistics import Moments
from limberlm.geometry.undefined import Undefined
from tests.geometry.clouds import blocks, moments, normal, power_law, rotation, sequences

UNEVEN = [2, 1, 3, 2, 2, 1]
OFFSET = torch.tensor([1.0, 0.0, -2.0])


def close(value: Tensor, expected: float, relative: float = 1e-12) -> bool:
    return value.item() == pytest.approx(expected, rel=relative)


def uneven_parts(seed: int) -> list[Tensor]:
    return list((normal(sum(UNEVEN), 3, seed=seed) + OFFSET).split(UNEVEN))


def ratio(parts: list[Tensor]) -> Tensor:
    return participation_ratio_debiased(BlockProducts.of([moments(part) for part in parts]))


def cross(x: Tensor, y: Tensor, shifts: tuple[Tensor, Tensor] | None = None) -> CrossMoments:
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    sums = CrossMoments.zeros(*(shifts or (torch.zeros(x.shape[1]), torch.zeros(y.shape[1]))))
    sums.update(x, y)
    return sums


def cross_products(x: list[Tensor], y: list[Tensor]) -> CrossProducts:
    across = [cross(left, right) for left, right in zip(x, y, strict=True)]
    return CrossProducts.of([moments(part) for part in x], [moments(part) for part in y], across)


def similarity(x: Tensor, y: Tensor, count: int = 16) -> float:
    return cka(cross_products(list(x.chunk(count)), list(y.chunk(count)))).item()


def distinct_tuples(sizes: list[int], order: int) -> np.ndarray:
    """[order, tuples]: all ordered tuples of rows from distinct blocks."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    every = itertools.permutations(range(len(block)), order)
    return np.array([rows for rows in every if len({block[i] for i in rows}) == order]).T


def ratio_over_quadruples(parts: list[Tensor]) -> float:
    """The definition, row by row."""
    x = torch.cat(parts).numpy()
    i, j, k, m = distinct_tuples([len(part) for part in parts], 4)
    left, right = x[i] - x[j], x[k] - x[m]
    above = ((left**2).sum(1) * (right**2).sum(1)).mean()
    return above / ((left * right).sum(1) ** 2).mean()


def hsic_over_quadruples(x_parts: list[Tensor], y_parts: list[Tensor]) -> float:
    x, y = torch.cat(x_parts).numpy(), torch.cat(y_parts).numpy()
    i, j, k, m = distinct_tuples([len(part) for part in x_parts], 4)
    of_x, of_y = (((rows[i] - rows[j]) * (rows[k] - rows[m])).sum(1) for rows in (x, y))
    return (of_x * of_y).mean() / 4


def cka_over_quadruples(x: list[Tensor], y: list[Tensor]) -> float:
    both = hsic_over_quadruples(x, x) * hsic_over_quadruples(y, y)
    return hsic_over_quadruples(x, y) / math.sqrt(both)


def means_over_tuples(x_parts: list[Tensor], y_parts: list[Tensor]) -> tuple[float, float]:
    """(tr Sigma_x)(tr Sigma_y) and |Sigma_xy|^2, from means over pairs, triples and quadruples each on its own."""
    sizes = [len(part) for part in x_parts]
    K, L = (rows @ rows.T for rows in (torch.cat(parts).numpy() for parts in (x_parts, y_parts)))
    (a, b), (i, j, k), (p, q, r, s) = (distinct_tuples(sizes, order) for order in (2, 3, 4))
    fourth = (K[p, q] * L[r, s]).mean()
    traces = (K[a, a] * L[b, b]).mean() - (K[i, i] * L[j, k] + L[i, i] * K[j, k]).mean() + fourth
    return traces, (K[a, b] * L[a, b]).mean() - 2 * (K[i, j] * L[i, k]).mean() + fourth


def row_version(x: Tensor) -> tuple[float, float]:
    """Unbiased (tr Sigma)^2 and tr(Sigma^2) from independent rows, written in sums."""
    n, total, second = len(x), x.sum(0), x.T @ x
    square = x.square().sum(1)
    T, v, q = square.sum(), (square[:, None] * x).sum(0), square.square().sum()
    F = second.square().sum()
    off = total.square().sum() - T
    A2, A3 = F - q, total @ second @ total - F - 2 * total @ v + 2 * q
    A4 = off**2 - 4 * A3 - 2 * A2
    B2, B3 = T**2 - q, T * off - 2 * (total @ v - q)
    n2, n3, n4 = (math.perm(n, order) for order in (2, 3, 4))
    return (B2 / n2 - 2 * B3 / n3 + A4 / n4).item(), (A2 / n2 - 2 * A3 / n3 + A4 / n4).item()


# --- debiased participation ratio


def test_debiased_ratio_equals_the_mean_over_quadruples_from_distinct_blocks() -> None:
    parts = uneven_parts(seed=3)
    assert close(ratio(parts), ratio_over_quadruples(parts))


def test_with_equal_blocks_it_also_equals_the_means_over_pairs_triples_and_quadruples() -> None:
    parts = list((normal(12, 3, seed=3) + 1).chunk(6))
    above, below = means_over_tuples(parts, parts)
    assert close(ratio(parts), above / below)


def test_estimates_of_both_traces_are_the_means_over_quadruples() -> None:
    parts = uneven_parts(seed=4)
    above, below = BlockProducts.of([moments(part) for part in parts]).spread()
    quadruples = distinct_tuples(UNEVEN, 4).shape[1]
    assert close(below / quadruples, hsic_over_quadruples(parts, parts))
    assert close(above / below, ratio_over_quadruples(parts))


def test_one_row_per_block_equals_the_row_version_himeno_yamada_and_hsic_of_the_states_with_themselves() -> None:
    n = 30
    x = normal(n, 5, seed=5) + 1
    above, below = row_version(x)
    S = x.T.cov()
    Q = (x - x.mean(0)).square().sum(1).square().sum() / (n - 1)
    himeno_yamada = (n - 1) / (n * (n - 2) * (n - 3)) * ((n - 1) * (n - 2) * S.square().sum() + S.trace() ** 2 - n * Q)
    assert close(himeno_yamada, below, 1e-10)
    assert close(hsic_rows(cross(x, x)), below, 1e-10)
    assert close(BlockProducts.of(blocks(x, n)).spread()[1] / math.perm(n, 4), below, 1e-10)
    assert close(participation_ratio_debiased(BlockProducts.of(blocks(x, n))), above / below, 1e-10)


def test_one_row_per_block_equals_the_package_of_2509_26560() -> None:
    x = normal(40, 12, seed=6) * power_law(12, 0.7).sqrt() + 0.3
    gamma = dimensionality.participation_ratio(x.numpy(), return_all=True)["row"]
    assert close(participation_ratio_debiased(BlockProducts.of(blocks(x, 40))), gamma)
    above, below = row_version(x)
    assert above / below == pytest.approx(gamma, rel=1e-12)


@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), offset=st.floats(-20, 20))
@settings(max_examples=30, deadline=None)
def test_debiased_ratio_ignores_rotation_scale_translation_and_the_shift_of_each_block(
    seed: int, scale: float, offset: float
) -> None:
    parts = normal(80, 6, seed=seed).split([4, 6, 20, 8, 12, 10, 5, 15])
    q = rotation(6, seed)
    changed = [moments(scale * (p @ q + offset), torch.full((6,), float(b))) for b, p in enumerate(parts)]
    # the shift of block b lies up to 20 standard deviations off, and products are of fourth order
    assert close(participation_ratio_debiased(BlockProducts.of(changed[::-1])), ratio(list(parts)).item(), 1e-9)


@pytest.mark.parametrize(("n", "expected", "naive"), [(128, (76.4, 80.4), 48.2), (32, (77, 84), 22)])
def test_debiased_ratio_finds_the_truth_where_the_naive_one_cannot(n: int, expected, naive: float) -> None:
    eigs = power_law(256, 0.7)
    clouds = [normal(n, 256, seed=seed) * eigs.sqrt() for seed in range(100)]
    debiased = [participation_ratio_debiased(BlockProducts.of(blocks(cloud))).item() for cloud in clouds]
    assert participation_ratio(eigs).item() == pytest.approx(77.56, abs=0.01)
    assert expected[0] < np.mean(debiased) < expected[1]
    plain = [participation_ratio(eigenvalues(moments(cloud).covariance)).item() for cloud in clouds[:20]]
    assert np.mean(plain) == pytest.approx(naive, abs=1)


@pytest.mark.parametrize(
    ("count", "tokens", "correlation", "naive", "row"),
    [(128, 16, 0.0, 47.2, 48.4), (128, 16, 0.5, 43.5, 44.5), (512, 8, 0.5, 46.8, 47.3), (64, 32, 0.8, 32.2, 32.8)],
)
def test_debiased_ratio_survives_tokens_that_resemble_each_other(count, tokens, correlation, naive, row) -> None:
    eigs = power_law(128, 0.7)
    clouds = [sequences(count, tokens, eigs, correlation, seed) for seed in range(60)]
    debiased = [participation_ratio_debiased(BlockProducts.of(blocks(cloud))).item() for cloud in clouds]
    assert np.mean(debiased) == pytest.approx(48.4, rel=0.02)
    plain = [participation_ratio(eigenvalues(moments(cloud).covariance)).item() for cloud in clouds[:20]]
    assert np.mean(plain) == pytest.approx(naive, abs=0.7)
    by_row = np.mean([above / below for above, below in (row_version(cloud.flatten(0, 1)) for cloud in clouds)])
    assert by_row == pytest.approx(row, abs=0.5)
    assert (abs(by_row / 48.4 - 1) < 0.02) == (correlation == 0.0)


def test_empty_blocks_add_nothing_and_are_not_counted() -> None:
    parts = [moments(part) for part in uneven_parts(seed=6)]
    gapped = [*parts[:2], Moments.zeros(torch.zeros(3)), *parts[2:]]
    value = participation_ratio_debiased(BlockProducts.of(parts))
    assert close(participation_ratio_debiased(BlockProducts.of(gapped)), value.item(), 1e-14)
    with pytest.raises(Undefined, match="there are 3"):
        participation_ratio_debiased(BlockProducts.of([*parts[:3], Moments.zeros(torch.zeros(3))]))


def test_debiased_ratio_gives_a_reason_where_it_has_no_value() -> None:
    with pytest.raises(Undefined, match="at least 4 blocks with rows, there are 3"):
        participation_ratio_debiased(BlockProducts.of(blocks(normal(9, 3, seed=7), 3)))
    with pytest.raises(Undefined, match="at least 4 blocks with rows, there are 3"):
        participation_ratio_debiased(BlockProducts.of(blocks(normal(12, 3, seed=7), 4)).without(0))
    with pytest.raises(Undefined, match="all states are equal"):
        participation_ratio_debiased(BlockProducts.of(blocks(torch.full((16, 3), 0.3), 8)))
    with pytest.raises(Undefined, match="too few rows"):
        participation_ratio_debiased(BlockProducts.of(blocks(torch.eye(4), 4)))
    with pytest.raises(ValueError, match="no block holds rows"):
        BlockProducts.of([Moments.zeros(torch.zeros(3))] * 4)


@given(seed=st.integers(0, 1000), width=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_debiased_ratio_is_never_below_one(seed: int, width: int) -> None:
    assert ratio(list(normal(16, width, seed=seed).split([1, 3, 2, 5, 1, 4]))).item() >= 1 - 1e-9


# --- both


def test_without_a_block_is_the_value_of_the_others() -> None:
    x, y = uneven_parts(seed=4), [part @ normal(3, 2, seed=8) + part.square()[:, :2] for part in uneven_parts(seed=4)]
    whole, pair = BlockProducts.of([moments(part) for part in x]), cross_products(x, y)
    for b in range(len(x)):
        rest = x[:b] + x[b + 1 :], y[:b] + y[b + 1 :]
        assert close(participation_ratio_debiased(whole.without(b)), ratio(rest[0]).item())
        assert close(cka(pair.without(b)), cka(cross_products(*rest)).item())


@pytest.mark.parametrize("entries", [1, 6 * 7 * 2, 6 * 7 * 3])
def test_how_many_rows_of_the_matrices_are_gathered_at_a_time_changes_nothing(monkeypatch, entries: int) -> None:
    x = list((normal(60, 7, seed=9) + 5).split([4, 6, 20, 8, 12, 10]))
    y = [part.exp()[:, :5] for part in x]
    plain = ratio(x), cka(cross_products(x, y))
    monkeypatch.setattr(between_blocks, "PANEL_ENTRIES", entries)
    assert close(ratio(x), plain[0].item())
    assert close(cka(cross_products(x, y)), plain[1].item())


# --- CKA


def related_parts(seed: int, offset: float = 0.0) -> tuple[list[Tensor], list[Tensor]]:
    x = normal(sum(UNEVEN), 3, seed=seed)
    y = x @ normal(3, 4, seed=seed + 1) + normal(sum(UNEVEN), 4, seed=seed + 2)
    return list((x + offset).split(UNEVEN)), list((y - 2 * offset).split(UNEVEN))


def test_cka_equals_the_mean_over_quadruples_from_distinct_blocks() -> None:
    x, y = related_parts(seed=10, offset=1.0)
    value = cka(cross_products(x, y))
    assert close(value, cka_over_quadruples(x, y))
    assert 0.2 < value.item() < 0.95


def test_with_equal_blocks_cka_also_equals_the_means_over_pairs_triples_and_quadruples() -> None:
    x = list((normal(12, 3, seed=11) + 1).chunk(6))
    y = [part.square() for part in x]
    across, of_x, of_y = (means_over_tuples(*pair)[1] for pair in ((x, y), (x, x), (y, y)))
    assert close(cka(cross_products(x, y)), across / math.sqrt(of_x * of_y))


def test_one_row_per_block_equals_the_row_version_of_cka() -> None:
    x = normal(24, 5, seed=12) + 1
    y = x[:, :4].square() + normal(24, 4, seed=13)
    by_row = cka_rows(cross(x, y), cross(x, x), cross(y, y))
    assert close(cka(cross_products(list(x.split(1)), list(y.split(1)))), by_row.item())


@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100),
    offset=st.floats(-3, 3),
    order=st.permutations(range(len(UNEVEN))),
)
@settings(max_examples=30, deadline=None)
def test_cka_ignores_rotation_scale_translation_and_the_order_of_blocks_and_rows(seed, scale, offset, order) -> None:
    x, y = related_parts(seed)
    try:
        plain = cka(cross_products(x, y))
    except Undefined:
        return
    turned = [(scale * (x[b] @ rotation(3, seed) + offset)).flip(0) for b in order]
    moved = cross_products(turned, [(y[b] - offset).flip(0) for b in order])
    torch.testing.assert_close(cka(moved), plain, rtol=1e-10, atol=1e-10)


def test_sums_about_any_shift_give_the_same_cka() -> None:
    x, y = related_parts(seed=14)
    shifts = [(torch.full((3,), float(b)), torch.full((4,), 2.0 - b)) for b in range(len(UNEVEN))]
    moved = CrossProducts.of(
        [moments(part, left) for part, (left, _) in zip(x, shifts, strict=True)],
        [moments(part, right) for part, (_, right) in zip(y, shifts, strict=True)],
        [cross(*parts) for parts in zip(x, y, shifts, strict=True)],
    )
    assert close(cka(moved), cka(cross_products(x, y)).item())


@pytest.mark.parametrize("sizes", [[10] * 16, [1, 40, 3, 16, 30, 10, 25, 35]])
def test_cka_of_the_same_states_turned_and_scaled_is_one(sizes: list[int]) -> None:
    rows = normal(sum(sizes), 8, seed=15) * power_law(8, 1.0).sqrt() + 2
    x = list(rows.split(sizes))
    assert close(cka(cross_products(x, x)), 1.0)
    assert close(cka(cross_products(x, [-3 * part @ rotation(8, seed=16) + 1 for part in x])), 1.0)


def test_unrelated_states_of_any_count_read_zero() -> None:
    for n, draws in ((128, 8), (512, 2), (2048, 1)):
        values = [similarity(normal(n, 512, seed=seed), normal(n, 512, seed=seed + 50)) for seed in range(draws)]
        assert np.mean(values) == pytest.approx(0.0, abs=0.01)


def test_unrelated_texts_of_alike_tokens_read_zero_where_the_row_version_does_not() -> None:
    eigs = torch.ones(32, dtype=torch.float64)
    pairs = [[sequences(96, 10, eigs, 0.5, seed + side) for side in (0, 500)] for seed in range(40)]
    assert np.mean([similarity(x, y) for x, y in pairs]) == pytest.approx(0.0, abs=0.01)
    by_row = [cka_rows(cross(x, y), cross(x, x), cross(y, y)).item() for x, y in pairs]
    assert np.mean(by_row) == pytest.approx(0.071, abs=0.01)


def test_cka_gives_a_reason_where_it_has_no_value() -> None:
    x, y = related_parts(seed=17)
    with pytest.raises(Undefined, match="at least 4 blocks with rows, there are 3"):
        cka(cross_products(x[:3], y[:3]))
    with pytest.raises(Undefined, match="all states are equal"):
        cka(cross_products(x, [torch.full_like(part, 0.5) for part in y]))  # whose sums are exact
    with pytest.raises(ValueError, match="do not hold the same rows"):
        CrossProducts.of([moments(p) for p in x[::-1]], [moments(p) for p in y], [cross(*p) for p in zip(x, y)])  # noqa: B905
