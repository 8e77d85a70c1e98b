"""The six penalties: values against brute force, gradients against autograd and finite differences, known levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad
from torch.utils.flop_counter import FlopCounterMode

from limberlm.interventions.diversity.formulas import (
    anchored_participation_ratio,
    cosine,
    cosine_squared,
    logdet,
    participation_ratio,
    unbiased,
    vcreg,
)

Penalty = Callable[[Tensor], tuple[Tensor, Tensor]]
ANCHOR = 9.0  # above the participation ratio of the clouds below
PENALTIES: dict[str, Penalty] = {
    "cosine": cosine,
    "cosine_squared": cosine_squared,
    "participation_ratio": participation_ratio,
    "anchored_participation_ratio": lambda x: anchored_participation_ratio(x, ANCHOR),
    "vcreg": lambda x: vcreg(x, gamma=0.9, variance=1.5, covariance=0.7),
    "logdet": lambda x: logdet(x, epsilon=2e-3),
}


def cloud(n: int, d: int, seed: int = 0) -> Tensor:
    """Rows of many norms around a common direction, the axes of unequal spread; of low rank, as states are."""
    draw = torch.Generator().manual_seed(seed)
    spread = 1.0 / torch.arange(1, d + 1, dtype=torch.float64)
    rows = torch.randn(n, d, generator=draw, dtype=torch.float64) * spread + 0.4 * spread.flip(0)
    return rows * torch.rand(n, 1, generator=draw, dtype=torch.float64).mul(4).exp()


def isotropic(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the same once more, the obvious way


def directions(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def covariance(rows: Tensor) -> Tensor:
    """By hand, a column at a time."""
    centred = rows - rows.mean(0)
    columns = [torch.stack([(a * b).sum() for b in centred.T]) for a in centred.T]
    return torch.stack(columns) / (len(rows) - 1)


def plain_participation_ratio(x: Tensor) -> Tensor:
    spectrum = torch.linalg.eigvalsh(covariance(directions(x)))
    return spectrum.square().sum() / spectrum.sum() ** 2


def plain_anchored(x: Tensor) -> Tensor:
    ratio = 1 / torch.clamp(plain_participation_ratio(x) - 1 / (len(x) - 1), min=1 / x.shape[1])
    return torch.clamp((ANCHOR - ratio) / ANCHOR, min=0)


def plain_vcreg(x: Tensor) -> Tensor:
    d = x.shape[1]
    c = covariance(math.sqrt(d) * directions(x))
    hinge = sum(torch.clamp(0.9 - torch.sqrt(c[j, j] + 1e-4), min=0) for j in range(d)) / d
    return 1.5 * hinge + 0.7 / d * sum(c[i, j] ** 2 for i, j in permutations(range(d), 2))


def plain_logdet(x: Tensor) -> Tensor:
    c, d = covariance(directions(x)), x.shape[1]
    return -torch.logdet(c / c.trace() + 2e-3 * torch.eye(d, dtype=x.dtype)) / d


def pairs(x: Tensor, power: int) -> Tensor:
    u = directions(x)
    cosines = [(u[i] @ u[j]) ** power for i, j in permutations(range(len(x)), 2)]
    return torch.stack(cosines).mean()


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda x: pairs(x, 1),
    "cosine_squared": lambda x: pairs(x, 2),
    "participation_ratio": plain_participation_ratio,
    "anchored_participation_ratio": plain_anchored,
    "vcreg": plain_vcreg,
    "logdet": plain_logdet,
}

tall_and_wide = pytest.mark.parametrize(("n", "d"), [(60, 24), (24, 60), (24, 24)])
each = pytest.mark.parametrize("kind", PENALTIES)


@each
@tall_and_wide
def test_value_and_gradient_equal_brute_force_and_autograd(kind: str, n: int, d: int) -> None:
    x = cloud(n, d)
    value, gradient = PENALTIES[kind](x)
    if kind == "participation_ratio" or (kind == "anchored_participation_ratio" and n <= d):
        # autograd through eigenvalues is exact only where they are apart: n <= d leaves many at zero
        wanted = grad(lambda z: covariance(directions(z)).square().sum() / covariance(directions(z)).trace() ** 2)(x)
        raw = plain_participation_ratio(x)
        if kind == "anchored_participation_ratio":
            wanted = wanted / (ANCHOR * (raw - 1 / (n - 1)) ** 2)
    else:
        wanted = grad(PLAIN[kind])(x)
    assert value.item() == pytest.approx(PLAIN[kind](x).item(), rel=1e-12, abs=1e-12)
    assert value > 0
    assert (gradient - wanted).norm() <= 1e-12 * wanted.norm()


@each
@tall_and_wide
def test_gradient_equals_finite_differences(kind: str, n: int, d: int) -> None:
    x = cloud(n, d)
    _, gradient = PENALTIES[kind](x)
    towards = isotropic(n, d, seed=1) * x.norm(dim=1, keepdim=True)
    step = 1e-6
    rise = (PENALTIES[kind](x + step * towards)[0] - PENALTIES[kind](x - step * towards)[0]) / (2 * step)
    assert rise.item() == pytest.approx((gradient * towards).sum().item(), rel=1e-6)


@each
@tall_and_wide
def test_a_token_is_never_pushed_along_itself(kind: str, n: int, d: int) -> None:
    x = cloud(n, d)
    _, gradient = PENALTIES[kind](x)
    along = (gradient * directions(x)).sum(1).abs()
    assert (along <= 1e-14 * gradient.norm(dim=1)).all()


@each
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(8, 40), d=st.integers(9, 40), factor=st.floats(1e-3, 1e3))
def test_scale_of_a_token_moves_nothing_but_its_own_gradient(
    kind: str, seed: int, n: int, d: int, factor: float
) -> None:
    x = cloud(n, d, seed)
    scaled = x.clone()
    scaled[3] *= factor
    value, gradient = PENALTIES[kind](x)
    again, moved = PENALTIES[kind](scaled)
    gradient[3] /= factor
    assert again.item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12)
    torch.testing.assert_close(moved, gradient, rtol=1e-7, atol=1e-9 * gradient.abs().max().item())


@pytest.mark.parametrize("kind", [kind for kind in PENALTIES if kind != "vcreg"])
def test_a_rotation_of_the_axes_changes_nothing_but_for_vcreg(kind: str) -> None:
    x = cloud(40, 24)
    turn = torch.linalg.qr(isotropic(24, 24, seed=2)).Q
    value, gradient = PENALTIES[kind](x)
    again, turned = PENALTIES[kind](x @ turn)
    assert again.item() == pytest.approx(value.item(), rel=1e-10)
    torch.testing.assert_close(turned, gradient @ turn, rtol=1e-8, atol=1e-10 * gradient.abs().max().item())
    assert vcreg(x)[0].item() != pytest.approx(vcreg(x @ turn)[0].item(), rel=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in PENALTIES if kind != "cosine"])
@pytest.mark.parametrize(("n", "d"), [(16, 512), (512, 16)])
def test_products_are_taken_on_the_smaller_side(kind: str, n: int, d: int) -> None:
    with FlopCounterMode(display=False) as counter:
        PENALTIES[kind](isotropic(n, d))
    assert counter.get_total_flops() == 4 * min(n, d) ** 2 * max(n, d)


@each
def test_float32_keeps_six_digits(kind: str) -> None:
    x = cloud(64, 96)
    value, gradient = PENALTIES[kind](x.float())
    wanted, exact = PENALTIES[kind](x)
    assert value.dtype == gradient.dtype == torch.float32
    assert value.item() == pytest.approx(wanted.item(), rel=2e-5)
    assert (gradient - exact).norm() <= 2e-5 * exact.norm()


@each
def test_descending_the_gradient_spreads_the_states(kind: str) -> None:
    x = cloud(48, 24)
    before = PENALTIES[kind](x)[0]
    for _ in range(20):
        x = x - 0.2 * x.norm(dim=1, keepdim=True) ** 2 * PENALTIES[kind](x)[1]
    assert PENALTIES[kind](x)[0] < 0.95 * before


# --- known levels and identities


def test_isotropic_rows_have_the_levels_of_the_definition() -> None:
    for n, d, inverse in ((128, 64, 0.0233), (512, 256, 0.00586)):
        clouds = [isotropic(n, d, seed) for seed in range(8)]
        assert sum(cosine(x)[0].item() for x in clouds) / 8 == pytest.approx(0, abs=2 / (n * math.sqrt(d)))
        assert sum(cosine_squared(x)[0].item() for x in clouds) / 8 == pytest.approx(1 / d, rel=0.02)
        level = sum(participation_ratio(x)[0].item() for x in clouds) / 8
        assert level == pytest.approx(inverse, rel=0.02)
        assert level == pytest.approx(1 / d + 1 / (n - 1), rel=0.02)


def test_few_tokens_look_low_rank_and_the_correction_undoes_it() -> None:
    d, table = 64, {32: (15.1, 29.5), 64: (20.1, 29.6), 128: (24.0, 29.6), 512: (28.2, 29.8)}
    scale = _spectrum_of_participation_ratio(29.8, d)
    for n, (naive, corrected) in table.items():
        inverses = [participation_ratio(isotropic(n, d, seed) * scale)[0] for seed in range(60)]
        mean = torch.stack(inverses).mean()
        assert 1 / mean.item() == pytest.approx(naive, rel=0.02)
        assert 1 / unbiased(mean, n, d).item() == pytest.approx(corrected, rel=0.03)


def _spectrum_of_participation_ratio(wanted: float, d: int) -> Tensor:
    """Axis scales whose normalised Gaussian rows have this participation ratio, by bisection on a power law."""
    low, high = 0.0, 2.0
    for _ in range(20):
        power = (low + high) / 2
        scale = torch.arange(1, d + 1, dtype=torch.float64) ** -(power / 2)
        found = 1 / participation_ratio(isotropic(8_000, d, seed=99) * scale)[0].item()
        low, high = (power, high) if found > wanted else (low, power)
    return scale


@tall_and_wide
def test_squared_cosine_is_the_uncentred_participation_ratio(n: int, d: int) -> None:
    x = cloud(n, d)
    spectrum = torch.linalg.eigvalsh(directions(x).T @ directions(x))
    uncentred = spectrum.square().sum() / spectrum.sum() ** 2
    assert ((n - 1) * cosine_squared(x)[0].item() + 1) / n == pytest.approx(uncentred.item(), rel=1e-12)


def test_cosine_is_content_with_two_axes_and_the_participation_ratio_is_not() -> None:
    axes = torch.eye(16, dtype=torch.float64)[:2]
    x = torch.cat([axes, -axes]).repeat(8, 1)
    value, gradient = cosine(x)
    assert value.item() == pytest.approx(-1 / 31, rel=1e-12)
    assert gradient.abs().max() < 1e-15
    assert participation_ratio(x)[0].item() == pytest.approx(1 / 2, rel=1e-12)


@pytest.mark.parametrize("reference", [7.99, 2.0, torch.tensor(1.5)])
def test_above_its_reference_the_anchored_penalty_is_exactly_nothing(reference: float | Tensor) -> None:
    x = torch.cat([torch.eye(8), -torch.eye(8)]).repeat(40, 1) + 1e-3 * isotropic(640, 8).float()
    value, gradient = anchored_participation_ratio(x, reference)
    assert value.item() == 0.0
    assert not gradient.any()


def test_below_its_reference_the_anchored_penalty_is_the_share_that_is_missing() -> None:
    x = isotropic(4000, 12)
    value, _ = anchored_participation_ratio(x, reference=24.0)
    assert value.item() == pytest.approx(0.5, abs=0.01)


# --- states that are hardly states


@each
def test_a_token_of_zeros_is_left_alone(kind: str) -> None:
    x = cloud(30, 24)
    x[4] = 0
    value, gradient = PENALTIES[kind](x)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[4].any()


@each
@pytest.mark.parametrize("n", [2, 30])
def test_tokens_that_are_all_one_are_not_pushed_without_bound(kind: str, n: int) -> None:
    value, gradient = PENALTIES[kind](torch.ones(n, 24))
    assert value.isfinite()
    assert gradient.norm() < 1e-3 * math.sqrt(n) + (1.0 if kind == "logdet" else 0)


@each
def test_a_state_that_is_not_a_number_is_not_hidden(kind: str) -> None:
    x = cloud(30, 24)
    x[4, 2] = math.nan
    assert PENALTIES[kind](x)[0].isnan()
