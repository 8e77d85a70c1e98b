"""Two layers that learn a task: the start and the coordinates halve what the proxy loses at an equal target loss.

So does a penalty on tr(dW Cp dW') with plain LoRA, and both together lose least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from limberlm.interventions.decorrelation.formulas import Change
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.drift import output_change
from limberlm.interventions.folora.pencil import solve
from limberlm.interventions.folora.sadam import SAdam

SEEDS = range(5)
RANK = 4
ONE = torch.ones(1, dtype=torch.float64)


@dataclass(frozen=True)
class Toy:
    """relu(x W1') W2', its proxy's and its task's inputs, a teacher, and a random start of A for each layer."""

    weights: list[Tensor]
    proxy: Tensor
    held_out: Tensor
    task: Tensor
    wanted: Tensor
    random: list[Tensor]

    @classmethod
    def drawn(cls, seed: int) -> Toy:
        rng = np.random.default_rng(seed)

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape)

        W = [normal(64, 32) / 32**0.5, normal(16, 64) / 8]
        Qp, Qt = (np.linalg.qr(normal(32, 32))[0] for _ in range(2))
        spread = 1 / np.arange(1, 33)
        spread = np.sqrt(spread * 32 / spread.sum())
        P, held_out = ((normal(n, 32) * spread) @ Qp.T for n in (4096, 2048))
        T, _ = ((normal(n, 32) * spread) @ Qt.T for n in (512, 2048))
        teacher = [W[0] + 0.5 * normal(64, 32) / 32**0.5, W[1] + 0.5 * normal(16, 64) / 8]
        random = [rng.uniform(-1, 1, (RANK, d)) / d**0.5 for d in (32, 64)]
        made = [[torch.from_numpy(v) for v in values] for values in (W, teacher, random, [P, held_out, T])]
        return cls(made[0], *made[3], forward(made[3][2], made[1]), made[2])

    def moments(self, X: Tensor) -> list[Tensor]:
        """Second moments at each layer's input."""
        return [x.T @ x / len(x) for x in (X, (X @ self.weights[0].T).relu())]

    def bases(self) -> list:
        """Of the second moments at each layer's input."""
        return [
            solve(p, t, tau_rel=1e-2, rank=RANK, tokens=(1, 1), where="toy", dtype=p.dtype)
            for p, t in zip(self.moments(self.proxy), self.moments(self.task), strict=True)
        ]

    def drift(
        self,
        arm: Callable[..., torch.optim.Optimizer],
        start: Sequence[Tensor],
        residual: bool = False,
        penalty: float = 0.0,
        metric: Sequence[Tensor] = (),
    ) -> float:
        """Mean square change of the held-out proxy's outputs, in their own, once the task's loss has halved.

        With `penalty` times tr(dW M dW') beside the loss, for a metric M of each layer; after 1,000 steps as it is.
        """
        A = [Parameter(each.clone()) for each in start]
        B = [
            Parameter(W @ each.T if residual else W.new_zeros(len(W), RANK))
            for W, each in zip(self.weights, start, strict=True)
        ]
        base = [W - b.detach() @ a.detach() for W, a, b in zip(self.weights, A, B, strict=True)]
        optimizer = arm(A, B)
        goal = float((forward(self.task, self.weights) - self.wanted).square().mean()) / 2
        for _ in range(1000):
            loss = (forward(self.task, adapted(base, A, B)) - self.wanted).square().mean()
            if float(loss.detach()) <= goal:
                break
            optimizer.zero_grad()
            loss.backward()
            for a, b, M in zip(A, B, metric, strict=False):
                _, dB, dA = output_change(Change.of(b.detach()[None], a.detach()[None]), M, ONE)
                b.grad += penalty * dB[0]
                a.grad += penalty * dA[0]
            optimizer.step()
        before = forward(self.held_out, self.weights)
        with torch.no_grad():
            after = forward(self.held_out, adapted(base, A, B))
        return float((after - before).square().mean() / before.square().mean())


def forward(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return (x @ weights[0].T).relu() @ weights[1].T


def adapted(base: Sequence[Tensor], A: Sequence[Tensor], B: Sequence[Tensor]) -> list[Tensor]:
    return [W + b @ a for W, a, b in zip(base, A, B, strict=True)]


def adam(lr: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda A, B: torch.optim.Adam([*A, *B], lr=lr)


def folora(bases: list, lr: float, config: FoloraConfig) -> Callable[..., torch.optim.Optimizer]:
    def made(A: list[Parameter], B: list[Parameter]) -> SAdam:
        names = ["1", "2"]
        groups = [{"params": A, "names": names, "spectral": True}, {"params": B, "names": names}]
        return SAdam(groups, dict(zip(names, bases, strict=True)), lr=lr, config=config)

    return made


def drifts(arm: str, lr: float) -> list[float]:
    """Of each seed."""
    found = []
    for seed in SEEDS:
        toy = Toy.drawn(seed)
        bases = toy.bases()
        null = [basis.null.T for basis in bases]
        gated, ungated = (folora(bases, lr, FoloraConfig(lam=lam)) for lam in (1.0, 0.0))
        found.append(
            {
                "LoRA": lambda toy=toy: toy.drift(adam(lr), toy.random),
                "null start, Adam": lambda toy=toy, null=null: toy.drift(adam(lr), null),
                "random start, gated": lambda toy=toy, gated=gated: toy.drift(gated, toy.random),
                "null start, ungated": lambda toy=toy, null=null, ungated=ungated: toy.drift(ungated, null),
                "null_zero": lambda toy=toy, null=null, gated=gated: toy.drift(gated, null),
                "null_residual": lambda toy=toy, null=null, gated=gated: toy.drift(gated, null, residual=True),
            }[arm]()
        )
    return found


def test_the_proxy_loses_less_than_half_of_what_lora_loses_in_every_seed():
    lora, mine = drifts("LoRA", 1e-3), drifts("null_zero", 1e-3)
    assert lora == pytest.approx([0.1465, 0.1596, 0.0863, 0.1207, 0.2080], rel=1e-2)
    assert mine == pytest.approx([0.0524, 0.0379, 0.0337, 0.0342, 0.0605], rel=1e-2)
    assert all(one < 0.5 * other for one, other in zip(mine, lora, strict=True))


VALUES = {
    "LoRA": (0.1442, 0.1544, 0.1653),
    "null start, Adam": (0.1184, 0.1182, 0.1148),
    "random start, gated": (0.0886, 0.1038, 0.1427),
    "null start, ungated": (0.0580, 0.0663, 0.0869),
    "null_zero": (0.0437, 0.0487, 0.0614),
    "null_residual": (0.0472, 0.0519, 0.0685),
}


@pytest.mark.slow
@pytest.mark.parametrize("arm", VALUES)
def test_each_part_has_its_known_share(arm):
    for lr, value in zip((1e-3, 3e-3, 1e-2), VALUES[arm], strict=True):
        assert sum(drifts(arm, lr)) / len(SEEDS) == pytest.approx(value, rel=1e-2)


PENALISED = {
    ("LoRA", "weights", 0.03): (0.1203, 0.1257),
    ("LoRA", "weights", 0.1): (0.0962, 0.0962),  # of five seeds one never halves the task's loss
    ("LoRA", "outputs", 0.03): (0.0613, 0.0628),
    ("LoRA", "outputs", 0.1): (0.0308, 0.0312),
    ("FoLoRA", "outputs", 0.03): (0.0325,),
    ("FoLoRA", "outputs", 0.1): (0.0263,),
}


def penalised(arm: str, metric: str, weight: float, lr: float) -> float:
    """The mean drift over the seeds with a penalty on the change of the weights, or of the outputs on the proxy."""
    found = []
    for seed in SEEDS:
        toy = Toy.drawn(seed)
        bases, Cp = toy.bases(), toy.moments(toy.proxy)
        M = Cp if metric == "outputs" else [torch.eye(len(each), dtype=each.dtype) for each in Cp]
        null = [basis.null.T for basis in bases]
        made, start = (adam(lr), toy.random) if arm == "LoRA" else (folora(bases, lr, FoloraConfig()), null)
        found.append(toy.drift(made, start, penalty=weight, metric=M))
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", PENALISED, ids=str)
def test_penalties_have_their_known_share_beside_it_and_with_it(case: tuple[str, str, float]) -> None:
    for lr, value in zip((1e-3, 3e-3), PENALISED[case], strict=False):
        assert penalised(*case, lr) == pytest.approx(value, rel=1e-2)
