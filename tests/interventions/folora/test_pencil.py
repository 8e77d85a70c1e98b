from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.pencil import gate, null_band, scale, solve


def solved(Cp: Tensor, Ct: Tensor, tau_rel: float = 1e-2, rank: int = 2) -> Basis:
    return solve(Cp, Ct, tau_rel=tau_rel, rank=rank, tokens=(200, 150), where="here", dtype=torch.float64)


def drawn(rng: np.random.Generator, n: int, d: int, decay: float = 1.0) -> Tensor:
    rows = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** (-decay / 2)
    rows = rows @ np.linalg.qr(rng.standard_normal((d, d)))[0]
    return torch.from_numpy(rows.T @ rows / n)


def example() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((200, 6)) * [3, 2, 1, 0.5, 0.2, 0.1], rng.standard_normal((150, 6))
    return torch.from_numpy(X.T @ X / 200), torch.from_numpy(Y.T @ Y / 150)


def metric_of(basis: Basis, Cp: Tensor) -> Tensor:
    return Cp + basis.tau * torch.eye(len(Cp), dtype=Cp.dtype)


def metrics(basis: Basis, Cp: Tensor, Ct: Tensor) -> tuple[Tensor, Tensor]:
    """V' H V and V' Ct V."""
    V = basis.V.double()
    return V.T @ metric_of(basis, Cp) @ V, V.T @ Ct @ V


def test_a_small_pencil_has_its_published_numbers() -> None:
    Cp, Ct = example()
    basis = solved(Cp, Ct)

    def near(values: list[float]) -> object:
        return pytest.approx(values, rel=1e-8)

    assert [float(Cp.trace()), float(Ct.trace()), basis.tau] == near(
        [13.195735712954, 6.366640330811, 0.021992892854923]
    )
    spectrum = [0.0083940337, 0.0377504346, 0.2601739348, 1.0251426315, 3.7083264340, 8.1559482444]
    assert basis.spectrum.tolist() == near(spectrum)
    gamma = [38.8732448978, 16.5635745526, 3.0470757755, 1.1683462334, 0.2391983419, 0.1371496166]
    assert basis.gamma.tolist() == near(gamma)
    assert gate(basis.gamma, 1.0, 0.3).tolist() == near(
        [0.9749205262, 0.9430639818, 0.7529080117, 0.5388190389, 0.3, 0.3]
    )
    inverse = float((basis.spectrum + basis.tau).reciprocal().sum())
    assert [float(basis.gamma.sum()), inverse] == near([60.028589417652, 54.536502785046])
    assert scale(basis, "rms") == near(0.331689697880)
    least = float(basis.spectrum[:2].sum())
    assert [least, least / float(Cp.trace())] == near([0.046144468303, 0.003496922741])
    white, useful = metrics(basis, Cp, Ct)
    assert float((white - torch.eye(6)).abs().max()) < 1e-12
    assert float((useful - basis.gamma.diag()).abs().max()) < 1e-12


def test_a_diagonal_pencil_has_its_closed_form() -> None:
    basis = solved(torch.tensor([4.0, 1.0, 0.25, 0.0]).diag().double(), torch.eye(4, dtype=torch.float64))
    assert basis.tau == pytest.approx(0.013125, rel=1e-12)
    assert basis.gamma.tolist() == pytest.approx([76.190476190, 3.800475059, 0.987045034, 0.249182370], rel=1e-8)
    assert gate(basis.gamma, 1, 0.3).tolist() == pytest.approx([0.987045034, 0.791687284, 0.496740143, 0.3], rel=1e-8)
    assert basis.V.abs().flip(0).diag().tolist() == pytest.approx([8.728716, 1.949481, 0.993501, 0.499182], rel=1e-6)
    assert float(basis.V.abs().sum() - basis.V.abs().flip(0).diag().sum()) == 0
    assert scale(basis, "rms") == pytest.approx(0.221911246, rel=1e-8)
    assert basis.null.abs().tolist() == [[0, 0], [0, 0], [0, 1], [1, 0]]


@given(d=st.integers(2, 24), seed=st.integers(0, 500), tau_rel=st.sampled_from([1e-5, 1e-3, 1e-2, 1.0]))
@settings(max_examples=60, deadline=None)
def test_both_metrics_are_diagonal_and_the_values_are_scipys(d: int, seed: int, tau_rel: float) -> None:
    rng = np.random.default_rng(seed)
    Cp, Ct = drawn(rng, 3 * d, d, 2.0), drawn(rng, 4 * d, d)
    basis = solved(Cp, Ct, tau_rel)
    white, useful = metrics(basis, Cp, Ct)
    one = torch.eye(d, dtype=torch.float64)
    assert float((white - one).abs().max()) < 1e-8
    assert float((useful - basis.gamma.diag()).abs().max()) < 1e-8 * max(1, float(basis.gamma[0]))
    assert bool((basis.gamma.diff() <= 0).all())
    assert bool((basis.spectrum.diff() >= 0).all())
    H = (Cp + basis.tau * one).numpy()
    assert basis.gamma.tolist() == pytest.approx(scipy.linalg.eigh(Ct.numpy(), H)[0][::-1].tolist(), rel=1e-10)
    inverse = torch.linalg.inv(Cp + basis.tau * one)
    assert torch.allclose(basis.V @ basis.V.T, inverse, rtol=1e-8, atol=1e-9 * float(inverse.abs().max()))
    assert scale(basis, "rms") == pytest.approx(math.sqrt(d) / float(basis.V.norm()), rel=1e-9)
    assert float((inverse * Ct).sum()) == pytest.approx(float(basis.gamma.sum()), rel=1e-9)
    step = torch.from_numpy(rng.standard_normal((3, d)))  # in V's coordinates
    penalty, utility = ((step @ basis.V.T @ M @ basis.V @ step.T).trace() for M in (metric_of(basis, Cp), Ct))
    assert float(penalty) == pytest.approx(float(step.square().sum()), rel=1e-7)
    assert float(utility) == pytest.approx(float((basis.gamma * step.square()).sum()), rel=1e-7)
    residual = Cp @ basis.null - basis.null * basis.spectrum[: basis.null.shape[1]]
    assert float(residual.abs().max()) < 1e-12 * float(Cp.trace())


@given(d=st.integers(2, 20), seed=st.integers(0, 500), a=st.sampled_from([1e-6, 0.1, 7.0, 1e5]))
@settings(max_examples=30, deadline=None)
def test_the_unit_of_both_moments_leaves_gamma_and_shortens_v_and_step_scale_makes_up_for_it(
    d: int, seed: int, a: float
) -> None:
    rng = np.random.default_rng(seed)
    Cp, Ct = drawn(rng, 5 * d, d), drawn(rng, 5 * d, d)
    before, after = solved(Cp, Ct), solved(a * Cp, a * Ct)
    assert after.gamma.tolist() == pytest.approx(before.gamma.tolist(), rel=1e-9)
    assert float(after.V.norm()) == pytest.approx(float(before.V.norm()) / math.sqrt(a), rel=1e-9)
    step = [scale(basis, "rms") * float(basis.V.norm()) for basis in (before, after)]
    assert step[0] == pytest.approx(step[1], rel=1e-9)
    assert step[0] == pytest.approx(math.sqrt(d), rel=1e-9)
    assert scale(before, "raw") == scale(after, "raw") == 1
    assert solved(Cp, a * Ct).gamma.tolist() == pytest.approx((a * before.gamma).tolist(), rel=1e-9)


@given(d=st.integers(3, 20), seed=st.integers(0, 500))
@settings(max_examples=30, deadline=None)
def test_turned_inputs_turn_v_and_leave_gamma(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Cp, Ct = drawn(rng, 5 * d, d), drawn(rng, 5 * d, d)
    Q = torch.from_numpy(np.linalg.qr(rng.standard_normal((d, d)))[0])
    before, after = solved(Cp, Ct), solved(Q @ Cp @ Q.T, Q @ Ct @ Q.T)
    assert after.gamma.tolist() == pytest.approx(before.gamma.tolist(), rel=1e-9)
    projectors = [
        (Q @ before.V).T @ after.V @ after.V.T @ (Q @ before.V),
        before.V.T @ before.V @ before.V.T @ before.V,
    ]
    assert torch.allclose(*projectors, rtol=1e-7, atol=1e-7 * float(projectors[1].abs().max()))


def test_equal_moments_use_less_than_half_of_every_step() -> None:
    Cp = drawn(np.random.default_rng(3), 60, 12)
    basis = solved(Cp, Cp)
    wanted = basis.spectrum / (basis.spectrum + basis.tau)
    assert basis.gamma.tolist() == pytest.approx(wanted.flip(0).tolist(), rel=1e-12)
    assert bool((gate(basis.gamma, 1.0, 0.0) < 0.5).all())


@pytest.mark.parametrize("precise", [torch.float32, torch.float64])
def test_moments_of_lower_rank_are_solved_without_raising_the_ridge(
    precise: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(5)
    rows = [torch.from_numpy(rng.standard_normal((n, 32))) for n in (20, 9)]
    Cp, Ct = ((x.T @ x / len(x)).to(precise) for x in rows)
    with caplog.at_level(logging.WARNING):
        basis = solved(Cp, Ct, rank=12)
    assert not caplog.records
    assert basis.tau == pytest.approx(1e-2 * float(Cp.trace()) / 32, rel=1e-6)
    rounding = 1e-4 if precise == torch.float32 else 1e-11
    assert float(basis.gamma[9:].max()) < rounding * float(basis.gamma[0])
    assert float(basis.gamma.min()) >= 0
    assert float(basis.spectrum.min()) >= 0
    assert float((rows[0] @ basis.null.double()).abs().max()) < 10 * rounding


def test_a_ridge_too_small_for_float64_is_doubled_and_told(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((40, 64)), rng.standard_normal((100, 64))
    Cp, Ct = torch.from_numpy(X.T @ X / 40), torch.from_numpy(Y.T @ Y / 100)
    with caplog.at_level(logging.WARNING):
        basis = solved(Cp, Ct, tau_rel=1e-9)
    doubled = math.log2(basis.tau / (1e-9 * float(Cp.trace()) / 64))
    assert doubled == pytest.approx(round(doubled))
    assert 1 <= round(doubled) <= 10
    assert float((metrics(basis, Cp, Ct)[0] - torch.eye(64)).abs().max()) < 1e-7
    assert "here: the ridge was too small" in caplog.text
    with pytest.raises(UserError, match=r"^here: solved to .* raise tau_rel$"):
        solved(Cp, Ct, tau_rel=1e-15)


@pytest.mark.parametrize(
    ("n_t", "n_p", "law"),
    [
        (10, 10, (0.3929, 2.5454)),
        pytest.param(10, 100, (0.4578, 1.8052), marks=pytest.mark.slow),
        pytest.param(100, 100, (0.7527, 1.3285), marks=pytest.mark.slow),
        (1.36, 72.7, (0.0203, 3.555)),
        (10, 2, (0.267, 12.13)),
    ],
)
def test_by_chance_gamma_lies_between_wachters_edges(n_t: float, n_p: float, law: tuple[float, float]) -> None:
    d, rng = 400, np.random.default_rng(11)

    def moment(n: int) -> Tensor:
        blocks = [rng.standard_normal((min(4000, n - i), d)) for i in range(0, n, 4000)]
        return torch.from_numpy(sum(x.T @ x for x in blocks) / n)

    counts = round(n_p * d), round(n_t * d)
    band = null_band(*counts, d)
    assert band == pytest.approx(law, rel=5e-3)
    gamma = solved(moment(counts[0]), moment(counts[1]), tau_rel=1e-9).gamma
    # a lower edge near 0 varies by more than 5 % between draws
    assert (float(gamma[-1]), float(gamma[0])) == pytest.approx(band, rel=0.05, abs=0.005)
    assert float(gamma.mean()) == pytest.approx(1 / (1 - d / counts[0]), rel=0.02)


def test_with_too_few_proxy_tokens_chance_excludes_nothing() -> None:
    assert null_band(400, 4000, 400) == (0.0, math.inf)


@pytest.mark.slow
def test_the_ridge_decides_what_is_gated() -> None:
    generator = torch.Generator().manual_seed(3)
    Q, Q2 = (torch.linalg.qr(torch.randn(768, 768, generator=generator, dtype=torch.float64)).Q for _ in range(2))
    k = torch.arange(1, 769, dtype=torch.float64)
    Cp, Ct = Q * k**-3 @ Q.T, Q2 * k**-2 @ Q2.T * (k**-3).sum() / (k**-2).sum()
    bases = [solved(Cp, Ct, tau_rel=10.0**-i) for i in range(6, 0, -1)]
    on_floor = [float((gate(basis.gamma, 1.0, 0.3) <= 0.3).double().mean()) for basis in bases]
    assert on_floor == pytest.approx([0.061, 0.061, 0.062, 0.070, 0.585, 0.867], abs=1e-3)
    assert [scale(basis, "rms") for basis in bases] == pytest.approx(
        [1.1e-4, 1.9e-4, 4.7e-4, 1.3e-3, 4.1e-3, 1.3e-2], rel=0.05
    )
    one = torch.eye(768, dtype=torch.float64)
    white = [float((metrics(basis, Cp, Ct)[0] - one).abs().max()) for basis in bases]
    assert max(white) < 1e-8
    for basis, finest in zip(bases, (4e-5, 2e-5, 1e-5, 4e-6, 2e-6, 1e-6), strict=True):  # as it is kept
        kept = replace(basis, V=basis.V.float())
        off = (metrics(kept, Cp, Ct)[0] - one).abs()
        felt = basis.V.abs().T @ (metric_of(basis, Cp) @ basis.V).abs()
        assert bool((off <= 1.1 * 2**-24 * (felt + felt.T)).all())
        assert float(off.max()) < 1.5 * finest  # which entry is rounded worst is the processor's choice
    costs = []  # of steps along all directions alike, in bfloat16
    for basis in bases:
        short = replace(basis, V=basis.V.bfloat16())
        opened = gate(basis.gamma, 1.0, 0.3).square()
        costs.append(float((opened * metrics(short, Cp, Ct)[0].diag()).sum() / opened.sum()) - 1)
    assert costs[0] > costs[1] > 0.05 > costs[2] > 0.01 > costs[3] > costs[4] > costs[5]  # refused below 1e-4


@given(gamma=st.lists(st.floats(0, 1e6), min_size=1, max_size=8), s_min=st.floats(0, 1))
@settings(deadline=None)
def test_gate_limits(gamma: list[float], s_min: float) -> None:
    values = torch.tensor(gamma, dtype=torch.float64)
    assert gate(values, 0.0, s_min).tolist() == [1.0] * len(gamma)
    assert gate(values, 1.0, 1.0).tolist() == [1.0] * len(gamma)
    assert gate(values, 1e300, s_min).tolist() == pytest.approx([s_min] * len(gamma), abs=1e-200)
    assert gate(torch.zeros(1), 1e-30, s_min).item() == pytest.approx(s_min)
    below = values < 3 / 7 * (1 - 1e-12)
    assert bool((gate(values, 1.0, 0.3)[below] == 0.3).all())


@pytest.mark.parametrize(
    ("Cp", "Ct", "message"),
    [
        (torch.eye(3), torch.full((3, 3), math.nan), "here: the task's second moment is not finite"),
        (torch.eye(3) * math.inf, torch.eye(3), "here: the proxy's second moment is not finite"),
        (torch.zeros(3, 3), torch.eye(3), "here: its input is 0 on every token of the proxy"),
        (torch.eye(3), torch.zeros(3, 3), "here: its input is 0 on every token of the task"),
    ],
)
def test_what_has_no_solution_is_refused(Cp: Tensor, Ct: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        solved(Cp, Ct)


def test_what_is_kept_is_float32_or_as_asked() -> None:
    Cp, Ct = example()
    kept = solve(Cp, Ct, tau_rel=1e-2, rank=2, tokens=(1, 2), where="")
    assert (kept.V.dtype, kept.null.dtype, kept.gamma.dtype) == (torch.float32, torch.float32, torch.float64)
    assert kept.tokens == (1, 2)
    short = solve(Cp, Ct, tau_rel=1e-2, rank=2, tokens=(1, 2), where="", dtype=torch.bfloat16)
    assert (short.V.dtype, short.null.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(short.V, solved(Cp, Ct).V.bfloat16())
