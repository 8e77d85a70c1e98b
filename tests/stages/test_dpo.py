"""The known first-step losses of direct preference optimization."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from limberlm.stages import TRAINERS
from limberlm.stages.arguments import trainer_config
from limberlm.stages.dpo import DPO, first_loss


def expected(**args: Any) -> float | None:
    return first_loss(trainer_config(DPO, args, where="x", seed=0, scratch=Path("scratch")))


def brute(kind: str, beta: float) -> float:
    """The loss of a pair whose log-ratios are both zero."""
    margin = 0.0
    return {
        "sigmoid": -math.log(1 / (1 + math.exp(-beta * margin))),
        "hinge": max(0.0, 1 - beta * margin),
        "ipo": (margin - 1 / (2 * beta)) ** 2,
    }[kind]


@pytest.mark.parametrize("kind", ["sigmoid", "hinge", "ipo"])
@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_first_loss_is_that_of_a_zero_margin(kind: str, beta: float) -> None:
    assert expected(loss_type=kind, beta=beta) == pytest.approx(brute(kind, beta), rel=1e-12)
    assert expected(loss_type=[kind], beta=beta, loss_weights=[0.5]) == pytest.approx(brute(kind, beta) / 2, rel=1e-12)


def test_the_usual_values() -> None:
    assert expected() == pytest.approx(0.693147, abs=1e-6)
    assert expected(loss_type="hinge") == 1
    assert expected(loss_type="ipo") == pytest.approx(25)


@pytest.mark.parametrize(
    "args",
    [
        {"loss_type": ["sigmoid", "sft"]},
        {"loss_type": "robust"},
        {"loss_type": "ipo", "beta": 0.0},
        {"use_weighting": True},
    ],
)
def test_a_loss_that_is_not_known_expects_nothing(args: dict[str, Any]) -> None:
    assert expected(**args) is None
    assert DPO.first_step(trainer_config(DPO, args, where="x", seed=0, scratch=Path("scratch"))) == {}


def test_supervised_fine_tuning_expects_nothing() -> None:
    assert TRAINERS["sft"].first_step(None) == {}
