"""What a guard does follows from what it saw: the weights of a ladder, up while outside and down while inside."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.interventions.guard.decision import Ladder, act, in_a_row, next_weight
from limberlm.interventions.guard.margin import State

STATES: list[State] = ["inside", "outside", "cannot tell"]
histories = st.lists(st.sampled_from(STATES), max_size=40)
patiences = st.integers(1, 4)


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    first = draw(st.floats(0.01, 10.0))
    largest = first * draw(st.floats(1.0, 1000.0))
    start = draw(st.one_of(st.just(0.0), st.floats(0.001, 1.0).map(lambda share: share * largest)))
    return Ladder(start, first, draw(st.floats(1.1, 10.0)), largest)


def run(states: list[State], ladder: Ladder, patience: int, weight: float | None = None, done: int = 0) -> list[float]:
    """The weights after each measurement."""
    weights = [ladder.start if weight is None else weight]
    for place in range(done, len(states)):
        weights.append(next_weight(states[: place + 1], weights[-1], ladder, patience))
    return weights[1:]


@given(histories, ladders(), patiences)
def test_no_weight_is_below_the_start_or_above_the_largest(states: list[State], ladder: Ladder, patience: int) -> None:
    assert all(ladder.start <= weight <= max(ladder.start, ladder.largest) for weight in run(states, ladder, patience))


@given(histories, ladders(), patiences)
def test_it_rises_outside_only_falls_inside_only_and_stays_where_nobody_can_tell(
    states: list[State], ladder: Ladder, patience: int
) -> None:
    for state, (before, after) in zip(states, pairwise([ladder.start, *run(states, ladder, patience)]), strict=True):
        if after > before:
            assert state == "outside"
        if after < before:
            assert state == "inside"


@given(st.lists(st.sampled_from(["inside", "cannot tell"]), max_size=40), ladders(), patiences)
def test_what_never_leaves_is_never_touched(states: list[State], ladder: Ladder, patience: int) -> None:
    assert set(run(states, ladder, patience)) <= {ladder.start}


@given(ladders(), patiences)
def test_outside_for_long_enough_reaches_the_largest_and_inside_the_start(ladder: Ladder, patience: int) -> None:
    states: list[State] = ["outside"] * 80 * patience + ["inside"] * 80 * patience
    weights = run(states, ladder, patience)
    assert weights[80 * patience - 1] == ladder.largest
    assert weights[-1] == ladder.start


@given(histories, ladders(), patiences, st.integers(0, 40))
def test_going_on_from_any_measurement_gives_the_weights_of_the_unbroken_run(
    states: list[State], ladder: Ladder, patience: int, place: int
) -> None:
    whole, place = run(states, ladder, patience), min(place, len(states))
    again = run(states, ladder, patience, weight=whole[place - 1] if place else None, done=place)
    assert whole[place:] == again


@given(histories.filter(bool), patiences)
def test_it_acts_once_for_every_full_patience(states: list[State], patience: int) -> None:
    acts = [act(states[: place + 1], patience) for place in range(len(states))]
    last = in_a_row(states)
    wanted = 0 if states[-1] == "cannot tell" else last // patience
    assert sum(each != "keep" for each in acts[len(acts) - last :]) == wanted


@pytest.mark.parametrize(("state", "wanted"), [("outside", "raise"), ("inside", "lower"), ("cannot tell", "keep")])
def test_another_answer_in_between_starts_the_count_anew(state: State, wanted: str) -> None:
    other: State = "inside" if state != "inside" else "outside"
    assert act([state, other, state], 2) == "keep"
    assert act([state, other, state, state], 2) == wanted
