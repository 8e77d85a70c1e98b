from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limberlm.geometry.low_rank import singular_bases
from limberlm.interventions.refresh.factors import refitted


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 6), st.integers(3, 9), st.integers(3, 9), st.sampled_from([2.0, -0.5, 1e-3])
)
def test_the_product_is_the_best_of_its_rank_and_the_error_is_what_is_left(
    seed: int, rank: int, d_out: int, d_in: int, scale: float
) -> None:
    wanted = random(d_out, d_in, seed=seed)
    found = refitted(
        singular_bases(wanted), random(d_out, rank, seed=seed + 1), random(rank, d_in, seed=seed + 2), scale
    )
    assert (found.B.shape, found.A.shape) == ((d_out, rank), (rank, d_in))
    left, values, right = torch.linalg.svd(wanted, full_matrices=False)
    best = (left * torch.where(torch.arange(len(values)) < rank, values, 0.0)) @ right
    product = scale * found.B @ found.A
    assert (product - best).abs().max() < 1e-12 * float(values[0])
    assert abs(found.left_out - float((wanted - product).norm())) < 1e-12 * float(values[0])


def test_no_rotation_of_the_factors_is_nearer_to_those_there_were() -> None:
    B, A, scale = random(8, 3, seed=0), random(3, 6, seed=1), 2.0
    target = singular_bases(scale * B @ A + 0.1 * random(8, 6, seed=2))
    found = refitted(target, B, A, scale)
    distance = (found.B - B).square().sum() + (found.A - A).square().sum()
    for seed in range(50):
        turned, _ = torch.linalg.qr(random(3, 3, seed=100 + seed))
        other = (found.B @ turned - B).square().sum() + (turned.T @ found.A - A).square().sum()
        assert float(distance) <= float(other) + 1e-12
    assert abs(float(found.A.norm() / found.B.norm()) - float(A.norm() / B.norm())) < 1e-9


def test_balanced_factors_of_an_unchanged_product_stay_themselves() -> None:
    # factors with B'B proportional to A A' are the only ones that a rotation alone can give back
    left, right = (torch.linalg.qr(random(7, 2, seed=seed))[0] for seed in (0, 1))
    B, A = left * torch.tensor([3.0, 1.0]), (right * torch.tensor([6.0, 2.0])).T
    turned, _ = torch.linalg.qr(random(2, 2, seed=2))
    B, A = B @ turned, turned.T @ A
    found = refitted(singular_bases(2.0 * B @ A), B, A, 2.0)
    torch.testing.assert_close(found.B, B, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.A, A, rtol=0, atol=1e-12)


def test_a_product_of_smaller_rank_leaves_nothing_out_and_no_factor_dead() -> None:
    B, A = random(6, 3, seed=0), random(3, 5, seed=1)
    one = torch.outer(random(6, seed=2), random(5, seed=3))
    found = refitted(singular_bases(one), B, A, 1.0)
    assert found.left_out == 0.0
    torch.testing.assert_close(found.B @ found.A, one, rtol=0, atol=1e-12)
    assert bool((found.B.norm(dim=0) > 0).all())
    assert bool((found.A.norm(dim=1) > 0).all())


def test_a_factor_of_zero_is_replaced_too() -> None:
    wanted = random(4, 4, seed=0)
    found = refitted(singular_bases(wanted), torch.zeros(4, 4), torch.zeros(4, 4), 1.0)
    torch.testing.assert_close(found.B @ found.A, wanted, rtol=0, atol=1e-12)
