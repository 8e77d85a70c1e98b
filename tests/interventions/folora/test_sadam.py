"""SAdam's trajectories: known values, AdamW on the reparametrised leaf, what it is blind to and what changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from limberlm.interventions.folora.basis import Basis
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.pencil import gate, scale
from limberlm.interventions.folora.sadam import SAdam
from tests.interventions.folora.pencils import solved

OPEN = FoloraConfig(lam=0.0, step_scale="raw")
RAW = FoloraConfig(step_scale="raw")
RMS = FoloraConfig()


def sadam(A: Tensor, basis: Basis, config: FoloraConfig = RMS, **settings: Any) -> SAdam:
    return SAdam([{"params": [A], "names": ["A"], "spectral": True}], {"A": basis}, config=config, **settings)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


# --- the small pencil: known trajectories ---


def small() -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6)) * [3, 2, 1, 0.5, 0.2, 0.1]
    Y = rng.standard_normal((150, 6))
    return X.T @ X / 200, Y.T @ Y / 150, [torch.from_numpy(rng.standard_normal((2, 6))) for _ in range(3)]


def moved(basis: Basis, gradients: list[Tensor], config: FoloraConfig, **settings: Any) -> Tensor:
    """A [2, 6] from 0, after these gradients."""
    A = Parameter(torch.zeros(2, 6, dtype=torch.float64))
    optimizer = sadam(A, basis, config, lr=1e-2, **settings)
    for gradient in gradients:
        A.grad = gradient.clone()
        optimizer.step()
    return A.detach()


KNOWN = {
    "raw": (
        [
            [-0.0024665954, 0.0041506314, 0.0171438164, 0.0030609909, -0.0486933599, -0.0480856146],
            [0.0027255811, -0.0014065084, -0.0149043971, 0.0340902979, 0.0013821374, 0.1453337078],
        ],
        (0.165913697508, 0.001853107697),
        (5.7540721e-4, 1.07558729e-2),
    ),
    "rms": (
        [
            [-0.0008181442, 0.0013767216, 0.0056864272, 0.0010152989, -0.0161510858, -0.0159495029],
            [0.0009040471, -0.0004665242, -0.0049436348, 0.0113074005, 0.0004584407, 0.0482056934],
        ],
        (0.055031863920, 0.000203875298),
        (6.3305180e-5, 1.18334021e-3),
    ),
}


@pytest.mark.parametrize("step_scale", KNOWN)
@pytest.mark.parametrize("fused", [True, False])
def test_three_steps_on_a_small_pencil_have_their_known_values(step_scale: str, fused: bool) -> None:
    Cp, Ct, gradients = small()
    basis, config = solved(Cp, Ct), FoloraConfig(step_scale=step_scale)
    H = torch.from_numpy(Cp) + basis.tau * torch.eye(6, dtype=torch.float64)
    values, (norm, penalty), (first_penalty, first_utility) = KNOWN[step_scale]
    A = moved(basis, gradients, config, fused=fused)
    torch.testing.assert_close(A, torch.tensor(values, dtype=torch.float64), rtol=1e-8, atol=5.1e-11)
    assert float(A.norm()) == pytest.approx(norm, rel=1e-8)
    assert float((A @ H @ A.T).trace()) == pytest.approx(penalty, rel=1e-8)
    first = moved(basis, gradients[:1], config)
    assert float((first @ H @ first.T).trace()) == pytest.approx(first_penalty, rel=1e-8)
    assert float((first @ torch.from_numpy(Ct) @ first.T).trace()) == pytest.approx(first_utility, rel=1e-8)


def test_a_first_step_costs_and_gains_the_same_whatever_the_gradient() -> None:
    Cp, Ct, gradients = small()
    basis = solved(Cp, Ct)
    H = torch.from_numpy(Cp) + basis.tau * torch.eye(6, dtype=torch.float64)
    opened = gate(basis.gamma, 1.0, 0.3).square()
    c = scale(basis, "rms")
    for gradient in gradients:
        step = moved(basis, [1e3 * gradient], RMS)
        penalty, utility = (float((step @ M @ step.T).trace()) for M in (H, torch.from_numpy(Ct)))
        assert penalty == pytest.approx(c**2 * 1e-4 * 2 * float(opened.sum()), rel=1e-6)
        assert utility == pytest.approx(c**2 * 1e-4 * 2 * float((basis.gamma * opened).sum()), rel=1e-6)


def test_no_later_step_costs_more_than_ten_times_the_first_can() -> None:
    Cp, Ct, gradients = small()
    basis = solved(Cp, Ct)
    H = torch.from_numpy(Cp) + basis.tau * torch.eye(6, dtype=torch.float64)
    A = Parameter(torch.zeros(2, 6, dtype=torch.float64))
    optimizer = sadam(A, basis, RAW, lr=1e-2)
    A.grad = torch.zeros_like(A)
    optimizer.step()
    optimizer.state[A]["step"].fill_(9_999)  # as if all gradients had been 0 until then
    A.grad = gradients[0]
    optimizer.step()
    most = 1e-4 * 2 * float(gate(basis.gamma, 1.0, 0.3).square().sum())
    penalty = float((A.detach() @ H @ A.detach().T).trace())
    assert 3.162**2 * most < penalty <= 10 * most


# --- a regression in one projection: what the optimizer amounts to ---


@dataclass(frozen=True)
class Regression:
    """Half the mean square of Y (W + B A)' - t over 600 tokens, to be minimised over A alone."""

    Y: Tensor
    W: Tensor
    B: Tensor
    t: Tensor
    A0: Tensor
    Cp: Tensor
    Ct: Tensor

    @classmethod
    def drawn(cls) -> Regression:
        rng = np.random.default_rng(1)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape)

        spread = np.arange(1, 25) ** -0.5
        X = normal(600, 24) * spread
        Q = np.linalg.qr(normal(24, 24))[0]
        Y = (normal(600, 24) * spread[::-1]) @ Q
        W, B, t, A0 = 0.3 * normal(8, 24), 0.3 * normal(8, 4), normal(600, 8), 0.1 * normal(4, 24)
        return cls(*(torch.from_numpy(np.ascontiguousarray(v)) for v in (Y, W, B, t, A0, X.T @ X / 600, Y.T @ Y / 600)))

    def turned(self, T: Tensor) -> Regression:
        """The same function of inputs T x."""
        back = torch.linalg.inv(T)
        changed = {"Y": self.Y @ T.T, "W": self.W @ back, "A0": self.A0 @ back}
        return replace(self, **changed, Cp=T @ self.Cp @ T.T, Ct=T @ self.Ct @ T.T)

    def basis(self) -> Basis:
        return solved(self.Cp.numpy(), self.Ct.numpy(), r=4)

    def loss(self, A: Tensor) -> Tensor:
        return 0.5 * (self.Y @ (self.W + self.B @ A).T - self.t).square().sum() / len(self.Y)

    def trained(self, make: Callable[[Parameter], torch.optim.Optimizer], steps: int = 50) -> Tensor:
        """A after so many steps of an optimizer of A."""
        return self.led(self.A0, lambda A: A, make, steps)

    def led(
        self,
        start: Tensor,
        A: Callable[[Tensor], Tensor],
        make: Callable[[Any], torch.optim.Optimizer],
        steps: int = 50,
    ) -> Tensor:
        """A after so many steps of an optimizer of a leaf that A is a function of."""
        leaf = Parameter(start.clone())
        optimizer = make(leaf)
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss(A(leaf)).backward()
            optimizer.step()
        return A(leaf).detach()

    def by(self, config: FoloraConfig = RAW, basis: Basis | None = None, **settings: Any) -> Tensor:
        basis = basis or self.basis()
        return self.trained(lambda A: sadam(A, basis, config, **({"lr": 1e-2} | settings)))


@pytest.fixture(scope="module")
def task() -> Regression:
    return Regression.drawn()


def adamw(leaf: Tensor) -> torch.optim.AdamW:
    return torch.optim.AdamW([leaf], lr=1e-2, weight_decay=0.0)


def test_fifty_steps_have_their_known_values(task: Regression) -> None:
    basis = task.basis()
    assert float(basis.gamma[0]) == pytest.approx(9.559405144, rel=1e-9)
    assert int((gate(basis.gamma, 1.0, 0.3) <= 0.3).sum()) == 7
    assert float(task.loss(task.A0)) == pytest.approx(5.816930766, rel=1e-9)
    raw, rms, ungated, plain = task.by(), task.by(RMS), task.by(OPEN), task.trained(adamw)
    for A, loss in ((raw, 4.997136790), (ungated, 4.936551822), (plain, 5.079305094)):
        assert float(task.loss(A)) == pytest.approx(loss, rel=1e-8)
    for A, norm in ((raw, 3.988741466), (rms, 2.020636264), (ungated, 4.844035122), (plain, 2.879791755)):
        assert float((A - task.A0).norm()) == pytest.approx(norm, rel=1e-8)


def test_without_a_gate_it_is_adamw_on_the_spectral_leaf(task: Regression) -> None:
    V = task.basis().V
    zero = torch.zeros(4, 24, dtype=torch.float64)
    leaf = task.led(zero, lambda leaf: task.A0 + leaf @ V.T, adamw)
    assert relative(task.by(OPEN), leaf) < 1e-13


def test_with_a_gate_it_is_adamw_on_the_gated_leaf_but_for_eps(task: Regression) -> None:
    basis = task.basis()
    V = basis.V * gate(basis.gamma, 1.0, 0.3)
    leaf = task.led(torch.zeros(4, 24, dtype=torch.float64), lambda leaf: task.A0 + leaf @ V.T, adamw)
    assert 1e-9 < relative(task.by(), leaf) < 1e-6


def test_in_the_coordinates_of_the_input_itself_it_is_adamw(task: Regression) -> None:
    plain = replace(task.basis(), V=torch.eye(24, dtype=torch.float64))
    assert relative(task.by(OPEN, plain), task.trained(adamw)) < 1e-13
    decayed = task.trained(lambda A: torch.optim.AdamW([A], lr=1e-2, weight_decay=0.3))
    assert relative(task.by(OPEN, plain, weight_decay=0.3), decayed) < 1e-13
    other = task.trained(lambda A: torch.optim.AdamW([A], lr=1e-2, betas=(0.5, 0.9), eps=1e-3, weight_decay=0))
    assert relative(task.by(OPEN, plain, betas=(0.5, 0.9), eps=1e-3), other) < 1e-13


def test_a_gate_on_the_gradient_would_do_nothing(task: Regression) -> None:
    """The gate is on the step: V diag(gate) in both directions would be the ungated run."""
    basis = task.basis()
    ungated = task.by(OPEN)
    opened = gate(basis.gamma, 1.0, 0.3)
    leaf = task.led(torch.zeros(4, 24, dtype=torch.float64), lambda leaf: task.A0 + (leaf * opened) @ basis.V.T, adamw)
    assert relative(task.by(), ungated) > 0.05
    assert relative(task.by(), leaf) < 1e-6


def test_its_first_direction_without_adam_is_the_natural_one_of_the_proxy(task: Regression) -> None:
    """V V' = H^-1: betas (0, 0) and a large eps leave lr / eps x G H^-1."""
    A = Parameter(task.A0.clone())
    optimizer = sadam(A, task.basis(), OPEN, lr=1e9, betas=(0.0, 0.0), eps=1e12)
    task.loss(A).backward()
    H = task.Cp + task.basis().tau * torch.eye(24, dtype=torch.float64)
    wanted = -1e-3 * A.grad @ torch.linalg.inv(H)
    optimizer.step()
    assert relative(A.detach() - task.A0, wanted) < 1e-9


# --- what it is blind to, and what changes it ---


def test_an_orthogonal_change_of_inputs_changes_nothing(task: Regression) -> None:
    Q = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    other = task.turned(Q)
    assert relative(other.by() @ Q, task.by()) < 1e-10
    assert relative(other.trained(adamw) @ Q, task.trained(adamw)) > 0.1


def test_an_invertible_change_of_inputs_changes_nothing_if_the_ridge_goes_with_it(task: Regression) -> None:
    generator = torch.Generator().manual_seed(4)
    T = torch.eye(24, dtype=torch.float64) + 0.2 * torch.randn(24, 24, dtype=torch.float64, generator=generator)
    assert 10 < float(torch.linalg.cond(T)) < 1e3
    other, basis = task.turned(T), task.basis()
    along = replace(basis, V=torch.linalg.inv(T).T @ basis.V)
    assert relative(other.by(basis=along) @ T, task.by()) < 1e-9
    assert relative(other.by() @ T, task.by()) > 0.05  # an isotropic ridge of the new inputs is another one


def test_signs_and_order_of_the_directions_do_not_matter(task: Regression) -> None:
    basis = task.basis()
    signs = torch.ones(24, dtype=torch.float64)
    signs[::2] = -1
    assert torch.equal(task.by(basis=replace(basis, V=basis.V * signs)), task.by())
    backwards = replace(basis, V=basis.V.flip(1), gamma=basis.gamma.flip(0))
    assert relative(task.by(basis=backwards), task.by()) < 1e-12


def test_a_rotation_inside_the_floor_changes_the_run(task: Regression) -> None:
    """Adam is not blind to rotations, so that the directions have to be kept, and never solved again."""
    basis = task.basis()
    V = basis.V.clone()
    V[:, -5:] @= torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    assert 0.02 < relative(task.by(basis=replace(basis, V=V)), task.by()) < 0.5


@pytest.mark.parametrize(("a", "norm"), [(1e-3, 5.1), (1.0, 4.0), (1e3, 0.31)])
def test_rms_steps_do_not_depend_on_the_unit_of_the_moments_and_raw_ones_do(
    task: Regression, a: float, norm: float
) -> None:
    basis = solved(a * task.Cp.numpy(), a * task.Ct.numpy())
    torch.testing.assert_close(basis.gamma, task.basis().gamma, rtol=1e-9, atol=1e-12)
    assert relative(task.by(RMS, basis), task.by(RMS)) < 1e-9
    assert float((task.by(RAW, basis) - task.A0).norm()) == pytest.approx(norm, rel=0.03)


def test_more_of_the_task_opens_the_gates_and_leaves_the_directions(task: Regression) -> None:
    basis, more = task.basis(), solved(task.Cp.numpy(), 7 * task.Ct.numpy())
    torch.testing.assert_close(more.gamma, 7 * basis.gamma, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(more.V.abs(), basis.V.abs(), rtol=1e-7, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.floats(-6, 6))
def test_a_gradient_has_no_size_and_no_row_knows_another(seed: int, size: float) -> None:
    Cp, Ct, _ = small()
    basis, generator = solved(Cp, Ct), torch.Generator().manual_seed(seed)
    gradients = [torch.randn(2, 6, dtype=torch.float64, generator=generator) for _ in range(3)]
    A = moved(basis, gradients, RMS, eps=0.0)
    torch.testing.assert_close(moved(basis, [10**size * g for g in gradients], RMS, eps=0.0), A)
    swapped = moved(basis, [g.flip(0) for g in gradients], RMS, eps=0.0)
    torch.testing.assert_close(swapped, A.flip(0))


# --- the gate's limits ---


@pytest.mark.parametrize("lam", [1e-6, 1e-9, 1e-12])
def test_a_small_lam_opens_every_direction_of_the_task(task: Regression, lam: float) -> None:
    A, ungated = task.by(FoloraConfig(lam=lam, step_scale="raw")), task.by(OPEN)
    assert relative(A, ungated) == pytest.approx(2.4 * lam, rel=0.5)


def test_a_direction_that_the_task_does_not_use_stays_on_the_floor_for_every_lam_above_0() -> None:
    gamma = torch.tensor([2.0, 0.0], dtype=torch.float64)
    assert gate(gamma, 1e-300, 0.3).tolist() == [1.0, 0.3]
    assert gate(gamma, 0.0, 0.3).tolist() == [1.0, 1.0]


def test_a_large_lam_is_a_smaller_learning_rate(task: Regression) -> None:
    wide = task.by(FoloraConfig(lam=1e300, step_scale="raw"))
    assert relative(wide, task.by(OPEN, lr=0.3e-2)) < 1e-13


def test_a_floor_of_1_is_no_gate_and_one_of_0_freezes_what_the_task_does_not_use(task: Regression) -> None:
    assert relative(task.by(FoloraConfig(s_min=1.0, step_scale="raw")), task.by(OPEN)) < 1e-14
    thin = task.Ct.numpy().copy()
    thin[:, -3:] = thin[-3:, :] = 0
    basis = solved(task.Cp.numpy(), thin)
    gamma = basis.gamma.clone()
    gamma[-3:] = 0
    A = task.by(FoloraConfig(s_min=0.0), replace(basis, gamma=gamma)) - task.A0
    inside = A @ torch.linalg.inv(basis.V).T  # in spectral coordinates
    assert float(inside[:, -3:].abs().max()) < 1e-12 < float(inside[:, :-3].abs().min())
