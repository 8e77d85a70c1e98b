"""An intervention moves its own quantity the way it promises, and more weight moves it further."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interventions.behaviour.cases import CASES, Case
from tests.interventions.behaviour.runs import Setup, run, student

SEEDS = 10


def quantities(runs: Any, case: Case, seed: int) -> list[float]:
    """The quantity after a run without the intervention, with its weight and with ten times that."""
    steps = case.learning.get("steps", 10)
    setup = Setup(case.trainers[0], steps=steps, window=1, seed=seed, rows=32, dropout=0.0)
    found = []
    for weight in (0.0, case.weight, case.largest or 10 * case.weight):
        callback = case.build(weight, runs.place)
        ended = run(runs.bases["llama"], runs.fresh(), setup, [callback])
        found.append(case.quantity(ended.trainer.model, student(runs.bases["llama"], setup)))
    return found


def as_promised(case: Case, found: list[float]) -> bool:
    without, with_it, with_more = found if case.falls else [-value for value in found]
    return without > with_it > with_more


@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_own_quantity_moves_as_promised(runs: Any, case: Case) -> None:
    found = quantities(runs, case, seed=0)
    assert as_promised(case, found), found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_does_so_with_nine_seeds_of_ten(runs: Any, case: Case) -> None:
    found = [quantities(runs, case, seed) for seed in range(SEEDS)]
    assert sum(as_promised(case, each) for each in found) >= 9, found
