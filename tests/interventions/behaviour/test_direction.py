"""An intervention moves its own quantity the way it promises, and more weight moves it further."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interventions.behaviour.cases import CASES, Case, at_once
from tests.interventions.behaviour.runs import Setup, run, student

SEEDS = 10


def quantities(runs: Any, case: Case, seed: int, *weights: float) -> list[float]:
    """The quantity after a run at each weight; larger is what is promised of less weight."""
    setup = Setup(case.trainers[0], steps=6, window=1, seed=seed, rows=32, dropout=0.0)
    found = []
    for weight in weights:
        ended = run(runs.bases["llama"], runs.fresh(), setup, [case.build(weight, runs.place)])
        value = case.quantity(ended.trainer.model, student(runs.bases["llama"], setup), runs.place)
        found.append(value if case.falls else -value)
    return found


@pytest.mark.parametrize("case", at_once())
def test_its_own_quantity_moves_as_promised(runs: Any, case: Case) -> None:
    without, with_it = quantities(runs, case, 0, 0.0, case.weight)
    assert without > with_it


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_more_weight_moves_it_further_with_nine_seeds_of_ten(runs: Any, case: Case) -> None:
    weight = case.clear * case.weight
    weights = (0.0, weight, case.largest or 10 * weight)
    found = [quantities(runs, case, seed, *weights) for seed in range(SEEDS)]
    assert sum(without > some > more for without, some, more in found) >= 9, found
