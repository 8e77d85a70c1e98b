"""The known first-step losses of direct preference optimization."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import UserError
from limberlm.stages.dpo import DPO, LOSSES, SMOOTHED, first_loss
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.trainers import TRAINERS
from tests.stages.runs import run_stage


def expected(**args: Any) -> float | None:
    return first_loss(trainer_config(DPO, args, where="x", seed=0, scratch=Path("scratch")))


def brute(kind: str, beta: float, smoothing: float = 0.0) -> float:
    """The loss of a pair whose log-ratios are both zero, as the papers write it."""
    margin = 0.0
    good = 1 / (1 + math.exp(-beta * margin))
    return {
        "sigmoid": -math.log(good),
        "sigmoid_norm": -math.log(good),
        "hinge": max(0.0, 1 - beta * margin),
        "ipo": (margin - 1 / (2 * beta)) ** 2,
        "exo_pair": good * math.log(good / (1 - smoothing or 1)) + (1 - good) * math.log((1 - good) / (smoothing or 1)),
        "nca_pair": -math.log(good) - math.log(1 - good) / 2 - math.log(1 - good) / 2,
        "robust": -((1 - smoothing) * math.log(good) - smoothing * math.log(1 - good)) / (1 - 2 * smoothing),
        "bco_pair": -math.log(good) - math.log(1 - good),
        "sppo_hard": (margin - 0.5 / beta) ** 2 + (margin + 0.5 / beta) ** 2,
        "aot": -math.log(good) * (1 - smoothing) - math.log(1 - good) * smoothing,
        "aot_unpaired": -math.log(good) * (1 - smoothing) - math.log(1 - good) * smoothing,
        "apo_zero": 1 - good + good,
        "apo_down": good + 1 - good,
        "discopop": -math.log(good) * (1 - good) + math.exp(-beta * margin) * good,
    }[kind]


@pytest.mark.parametrize("kind", [loss for loss in LOSSES if loss not in ("sft", "exo_pair")])
@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5])
def test_first_loss_is_that_of_a_zero_margin(kind: str, beta: float) -> None:
    assert expected(loss_type=kind, beta=beta) == pytest.approx(brute(kind, beta), rel=1e-12)
    assert expected(loss_type=[kind], beta=beta, loss_weights=[0.5]) == pytest.approx(brute(kind, beta) / 2, rel=1e-12)


def test_the_usual_values() -> None:
    assert expected() == pytest.approx(0.693147, abs=1e-6)
    assert expected(loss_type="hinge") == 1
    assert expected(loss_type="ipo") == pytest.approx(25)


@pytest.mark.parametrize("loss", SMOOTHED)
@pytest.mark.parametrize("smoothing", [0.001, 0.2, 0.4])
def test_a_smoothed_loss_starts_where_its_formula_says(loss: str, smoothing: float) -> None:
    assert expected(loss_type=loss, label_smoothing=smoothing) == pytest.approx(brute(loss, 0.1, smoothing), rel=1e-12)


def test_a_sum_of_losses_starts_at_their_weighted_sum() -> None:
    both = expected(loss_type=["sigmoid", "hinge"], loss_weights=[2.0, 0.5])
    assert both == pytest.approx(2 * math.log(2) + 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "sft"])
def test_every_known_value_is_the_trainers_own(tiny_model_folder: Path, tmp_path: Path, loss: str) -> None:
    smoothing = {"label_smoothing": 0.2} if loss in SMOOTHED else {}
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", loss_type=loss, max_steps=1, **smoothing)
    assert run.first_loss == pytest.approx(expected(loss_type=loss, **smoothing), abs=1e-4)


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss not in ("sft", "exo_pair", *SMOOTHED)])
def test_no_other_loss_reads_the_smoothing_that_is_refused_with_it(loss: str) -> None:
    with pytest.raises(UserError, match=r"label_smoothing: 0\.3 and loss_type: "):
        expected(loss_type=loss, label_smoothing=0.3)


@pytest.mark.parametrize(
    "args",
    [
        {"loss_type": ["sigmoid", "sft"]},
        {"loss_type": "robust", "label_smoothing": 0.5},
        {"loss_type": "ipo", "beta": 0.0},
        {"use_weighting": True},
    ],
)
def test_a_loss_that_is_not_known_expects_nothing(args: dict[str, Any]) -> None:
    assert expected(**args) is None
    assert DPO.first_step(trainer_config(DPO, args, where="x", seed=0, scratch=Path("scratch"))) == {}


def test_supervised_fine_tuning_expects_nothing() -> None:
    assert TRAINERS["sft"].first_step(None) == {}
