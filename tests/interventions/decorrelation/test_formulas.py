from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.geometry.low_rank import Factored
from limberlm.interventions.decorrelation.adapters import packed
from limberlm.interventions.decorrelation.formulas import RIDGE, Change, Terms, energy, o_lora, overlap
from tests.interventions.decorrelation.dense import earlier, normal, past_of, penalty

ALL = Terms(update=1.0, inputs=0.5, outputs=0.3, ridge=0.0)
UPDATE, INPUTS, OUTPUTS = (Terms(*one, ridge=0.0) for one in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
shapes = st.tuples(st.integers(6, 20), st.integers(6, 20), st.integers(1, 4))
ranks = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def close(found: Tensor, wanted: Tensor, relative: float = 1e-10) -> bool:
    return bool((found - wanted).abs().max() <= relative * max(float(wanted.abs().max()), 1e-3))


def autograd(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(value, of, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, of, strict=True))


@given(shape=shapes, ranks=ranks, seed=st.integers(0, 300), tau=st.sampled_from([0.0, 0.05, 0.7]))
@settings(max_examples=60, deadline=None)
def test_value_and_gradients_are_those_of_dense_autograd(shape, ranks: list[int], seed: int, tau: float) -> None:
    d_out, d_in, r = shape
    terms = replace(ALL, tau=tau)
    B, A = normal(2, d_out, r, seed=seed).requires_grad_(), normal(2, r, d_in, seed=seed + 1).requires_grad_()
    pasts = [earlier(d_out, d_in, ranks, seed=seed + 100 * i) for i in (1, 2)]
    with torch.no_grad():  # so that some direction is shared beyond chance
        A[0, 0] += 3 * pasts[0][0].right[0]
        B[1, :, 0] += 3 * pasts[1][0].left[:, 0]
    scales = torch.tensor([2.0, 0.25], dtype=torch.float64)
    wanted = sum(penalty(B[i], A[i], pasts[i], float(scales[i]), terms) for i in (0, 1)) / 2
    found = overlap(Change.of(B.detach(), A.detach()), past_of(*pasts), scales, terms)
    assert close(found.value, wanted.detach())
    assert all(close(*pair) for pair in zip(found.gradients, autograd(wanted, B, A), strict=True))


@given(shape=shapes, ranks=ranks, seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_after_a_start_the_change_is_what_was_added(shape, ranks: list[int], seed: int) -> None:
    d_out, d_in, r = shape
    B, A = normal(d_out, r, seed=seed).requires_grad_(), normal(r, d_in, seed=seed + 1).requires_grad_()
    start = normal(d_out, r, seed=seed + 2), normal(r, d_in, seed=seed + 3)
    past = earlier(d_out, d_in, ranks, seed=seed + 10)
    wanted = penalty(B, A, past, 2.0, UPDATE, start)
    change = Change.of(B.detach()[None], A.detach()[None], (start[0][None], start[1][None]))
    found = overlap(change, past_of(past), torch.tensor([2.0]), ALL)  # of ALL, the update alone is meant
    assert close(found.value, wanted.detach())
    assert all(close(f[0], w) for f, w in zip(found.gradients, autograd(wanted, B, A), strict=True))


def test_a_small_step_from_a_large_start_keeps_its_digits() -> None:
    start = 1e3 * normal(1, 20, 4), 1e3 * normal(1, 4, 20, seed=1)
    step = 1e-6 * normal(1, 20, 4, seed=2)
    past = earlier(20, 20, [3])
    exact = overlap(Change.of(step, start[1]), past_of(past), torch.ones(1), replace(UPDATE, tau=0))
    found = overlap(Change.of(start[0] + step, start[1], start), past_of(past), torch.ones(1), replace(UPDATE, tau=0))
    assert close(found.value, exact.value, 1e-5)  # ||B A||^2 - 2 <B A, B0 A0> + ||B0 A0||^2 has none left


@given(
    terms=st.sampled_from([UPDATE, INPUTS, OUTPUTS, replace(INPUTS, ridge=RIDGE)]),
    seed=st.integers(0, 400),
    stretch=st.floats(-2, 2),
)
@settings(max_examples=60, deadline=None)
def test_other_factors_of_the_same_update_are_penalised_alike(terms: Terms, seed: int, stretch: float) -> None:
    B, A, past = normal(1, 14, 3, seed=seed), normal(1, 3, 12, seed=seed + 1), earlier(14, 12, [2, 4], seed=seed + 2)
    mix = torch.linalg.qr(normal(3, 3, seed=seed + 3))[0] @ torch.diag(torch.tensor([10**stretch, 1, 0.5]).double())
    A[0, 0] += past[0].right[0]
    B[0, :, 0] += past[0].left[:, 0]
    one = overlap(Change.of(B, A), past_of(past), torch.ones(1), terms)
    other = overlap(Change.of(B @ torch.linalg.inv(mix), mix @ A), past_of(past), torch.ones(1), terms)
    tolerance = 1e-10 if not terms.ridge else 1e-6 * 10 ** (2 * abs(stretch) + 1)
    assert abs(one.value - other.value) <= tolerance
    gradient = mix.T @ other.gradients[1]  # the same, seen from the first factors
    assert float((gradient - one.gradients[1]).abs().max()) <= 100 * tolerance


def test_scaling_a_leaves_the_shared_directions_and_scales_o_lora() -> None:
    past = earlier(30, 40, [4])
    A = normal(1, 4, 40, seed=5) + past[0].right
    B = normal(1, 30, 4, seed=6)
    terms = replace(INPUTS, ridge=RIDGE)
    one, less = (overlap(Change.of(B, c * A), past_of(past), torch.ones(1), terms) for c in (1.0, 0.1))
    assert float(one.value) > 0.1
    assert abs(one.value - less.value) < 1e-12
    rows = past[0].right[None]
    assert float(o_lora(0.1 * A, rows)[0] / o_lora(A, rows)[0]) == pytest.approx(0.1, rel=1e-12)


def test_without_a_floor_neither_factor_gains_from_shrinking() -> None:
    B, A, past = normal(1, 14, 3), normal(1, 3, 12, seed=1), earlier(14, 12, [2, 4])
    found = overlap(Change.of(B, A), past_of(past), torch.ones(1), replace(ALL, tau=0))
    for gradient, factor in zip(found.gradients, (B, A), strict=True):
        assert abs(float((gradient * factor).sum())) < 1e-14 * float(gradient.norm() * factor.norm()) + 1e-16


def test_o_lora_is_its_released_sum() -> None:
    A, rows = normal(2, 3, 12).requires_grad_(), normal(2, 5, 12, seed=1)
    wanted = sum(torch.abs(torch.mm(rows[i], A[i].T)).sum() for i in (0, 1))
    value, gradient = o_lora(A.detach(), rows)
    assert close(value, wanted.detach())
    assert close(gradient, autograd(wanted, A)[0])


@given(shape=shapes, seed=st.integers(0, 300), continued=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_squared_distance_and_its_gradients_are_those_of_autograd(shape, seed: int, continued: bool) -> None:
    d_out, d_in, r = shape
    B, A = normal(2, d_out, r, seed=seed).requires_grad_(), normal(2, r, d_in, seed=seed + 1).requires_grad_()
    start = (normal(2, d_out, r, seed=seed + 2), normal(2, r, d_in, seed=seed + 3)) if continued else None
    wanted = (B @ A - (start[0] @ start[1] if start else 0)).square().sum((1, 2))
    change = Change.of(B.detach(), A.detach(), start)
    squares, R, L = energy(change)
    assert close(squares, wanted.detach())
    by_B, by_A = autograd(wanted.sum(), B, A)
    assert close(2 * change.left @ R, by_B)
    assert close(2 * L @ change.right, by_A)


# --- where there is nothing to divide by


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-6])
def test_an_update_of_nothing_or_next_to_nothing_has_a_finite_penalty(size: float, kind: torch.dtype) -> None:
    past = earlier(30, 40, [4, 2])
    B, A = (size * normal(1, 30, 3)).to(kind), normal(1, 3, 40, seed=1).to(kind)
    found = overlap(Change.of(B, A), past_of(past, like=B), torch.ones(1), replace(ALL, ridge=RIDGE))
    assert all(bool(part.isfinite().all()) for part in (found.value, found.cosine_squared, *found.gradients))
    assert found.gradients[0].norm() < 100


@pytest.mark.parametrize("tau", [0.05, 0.3])
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.577, 1.0, 20.0])  # of tau; the reference has the maximum at 0.58
def test_the_slope_along_the_update_is_bounded(share: float, tau: float) -> None:
    (past,) = earlier(20, 24, [3])
    size = float(past.norm())
    share *= tau
    B, A = (share * past.scale * past.left)[None], past.right[None]  # the worst case: D is a share of dW_s
    found = overlap(Change.of(B, A), past_of([past]), torch.ones(1), replace(UPDATE, tau=tau))
    slope = float((found.gradients[0] * B).sum()) / (share * size)
    assert 0 < slope <= 0.65 / (tau * size)
    if share == 0.577 * tau:
        assert slope == pytest.approx(0.65 / (tau * size), rel=2e-3)


def test_half_of_the_pressure_is_left_at_the_floor() -> None:
    (past,) = earlier(20, 24, [3])
    for share, wanted in ((0.05, 0.5), (0.2, 0.94)):
        B, A = (share * past.scale * past.left)[None], past.right[None]
        found = overlap(Change.of(B, A), past_of([past]), torch.ones(1), UPDATE)
        assert float(found.value) == pytest.approx(wanted, abs=0.002)


def test_the_scales_of_both_adapters_count_where_sizes_are_compared() -> None:
    past = earlier(20, 24, [3])
    B, A = 0.01 * normal(1, 20, 3, seed=8), normal(1, 3, 24, seed=9)
    one = overlap(Change.of(B, A), past_of(past), torch.tensor([2.0]), UPDATE)
    same = overlap(Change.of(2 * B, A), past_of(past), torch.tensor([1.0]), UPDATE)
    other = overlap(Change.of(B, A), past_of(past), torch.tensor([1.0]), UPDATE)
    assert close(one.value, same.value)
    assert float(one.value) > 1.5 * float(other.value)


def test_what_a_stage_did_not_change_does_not_count() -> None:
    one, other = earlier(20, 24, [3, 2])
    B, A = normal(2, 20, 3, seed=8), normal(2, 3, 24, seed=9)
    past = packed([[one.bases(), other.bases()], [None, other.bases()]], 2, torch.zeros((), dtype=torch.float64))
    found = overlap(Change.of(B, A), past, torch.ones(2), ALL)
    wanted = (penalty(B[0], A[0], [one, other], 1.0, ALL) + penalty(B[1], A[1], [other], 1.0, ALL)) / 2
    assert close(found.value, wanted)


# --- chance


def test_by_chance_updates_overlap_as_random_matrices_do() -> None:
    draws, r, d = 96, 16, 256
    modules = [[Factored(normal(d, r, seed=i), normal(r, d, seed=1000 + i))] for i in range(draws)]
    B, A = normal(draws, d, r, seed=2000), normal(draws, r, d, seed=3000)
    found = overlap(Change.of(B, A), past_of(*modules), torch.ones(draws), ALL)
    assert float(found.inputs) == pytest.approx(0.0625, abs=0.01)
    assert float(found.outputs) == pytest.approx(0.0625, abs=0.01)
    assert float(found.cosine_squared) ** 0.5 == pytest.approx(1 / 256, abs=0.0005)


def test_at_the_chance_level_directions_are_left_alone() -> None:
    axes = torch.eye(16, dtype=torch.float64)
    past = [Factored(axes[:, :4], axes[:4])]
    turned = axes[[0, 5, 6, 7]]  # one of four shared: phi is 0.25, and chance 4/16
    found = overlap(Change.of(turned.T[None], turned[None]), past_of(past), torch.ones(1), replace(ALL, update=0.0))
    assert float(found.inputs) == pytest.approx(0.25)
    assert float(found.value) < 1e-12


def test_stacked_modules_count_as_each_by_itself() -> None:
    B, A = normal(3, 10, 2), normal(3, 2, 12, seed=1)
    pasts = [earlier(10, 12, [2, 3], seed=i) for i in (3, 4, 5)]
    together = overlap(Change.of(B, A), past_of(*pasts), torch.ones(3), ALL)
    thirds = [replace(past_of(past), share=past_of(past).share / 3) for past in pasts]
    alone = [
        overlap(Change.of(b[None], a[None]), past, torch.ones(1), ALL) for b, a, past in zip(B, A, thirds, strict=True)
    ]
    assert close(together.value, sum(each.value for each in alone))
    for side in (0, 1):
        assert close(together.gradients[side], torch.cat([each.gradients[side] for each in alone]))
