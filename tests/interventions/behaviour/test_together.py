"""Two interventions at once: the order of the callbacks does not matter."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.interventions.behaviour.cases import CASES, PROBES, Case
from tests.interventions.behaviour.runs import Setup, distance, same_bits


def marked() -> list[Any]:
    """All pairs that a trainer may have, those with the first probe at once."""
    found = []
    for one, other in combinations(CASES, 2):
        shared = [kind for kind in one.trainers if kind in other.trainers]
        fight = {one.name, other.name} == {"anchor", "guard"}  # a guard has an anchor of its own
        if shared and one.name != other.name and not fight and "share" not in one.key + other.key:
            fast = one is PROBES[0] and (other not in PROBES or other is PROBES[3])
            marks = [] if fast else [pytest.mark.slow]
            found.append(pytest.param(shared[0], one, other, id=f"{one}+{other}", marks=marks))
    return found


@pytest.mark.parametrize(("kind", "one", "other"), marked())
def test_the_order_of_two_does_not_matter(runs: Any, kind: str, one: Case, other: Case) -> None:
    setup = Setup(kind, dropout=0.0, precision="fp64")
    pair = (one, one.weight), (other, other.weight)
    first, second = runs(setup, *pair), runs(setup, *reversed(pair))
    for given, otherwise in zip(first.gradients, second.gradients, strict=True):
        assert distance(given, otherwise) < 1e-6
    assert first.random == second.random
    for alone in pair:
        assert not same_bits(first.weights, runs(setup, alone).weights)
