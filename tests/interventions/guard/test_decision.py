"""What a guard does follows from what it saw: the weights of a ladder, up while outside and down while inside."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from limberlm.interventions.guard.decision import Act, Ladder, asked, in_a_row, next_weight
from limberlm.interventions.guard.margin import State

ACTS: list[Act] = ["lower", "raise", "keep"]
histories = st.lists(st.sampled_from(ACTS), max_size=40)
patiences = st.integers(1, 4)


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    first = draw(st.floats(0.01, 10.0))
    largest = first * draw(st.floats(1.0, 1000.0))
    start = draw(st.one_of(st.just(0.0), st.floats(0.001, 1.0).map(lambda share: share * largest)))
    return Ladder(start, first, draw(st.floats(1.1, 10.0)), largest)


def run(asks: list[Act], ladder: Ladder, patience: int, weight: float | None = None, done: int = 0) -> list[float]:
    """The weights after each measurement."""
    weights = [ladder.start if weight is None else weight]
    for place in range(done, len(asks)):
        weights.append(next_weight(asks[: place + 1], weights[-1], ladder, patience))
    return weights[1:]


@given(histories, ladders(), patiences)
def test_no_weight_is_below_the_start_or_above_the_largest(asks: list[Act], ladder: Ladder, patience: int) -> None:
    assert all(ladder.start <= weight <= max(ladder.start, ladder.largest) for weight in run(asks, ladder, patience))


@given(histories, ladders(), patiences)
def test_it_does_what_is_asked_for_and_nothing_else(asks: list[Act], ladder: Ladder, patience: int) -> None:
    for ask, (before, after) in zip(asks, pairwise([ladder.start, *run(asks, ladder, patience)]), strict=True):
        if after > before:
            assert ask == "raise"
        if after < before:
            assert ask == "lower"


@given(st.lists(st.sampled_from(["lower", "keep"]), max_size=40), ladders(), patiences)
def test_what_never_leaves_is_never_touched(asks: list[Act], ladder: Ladder, patience: int) -> None:
    assert set(run(asks, ladder, patience)) <= {ladder.start}


@given(ladders(), patiences)
def test_outside_for_long_enough_reaches_the_largest_and_inside_the_start(ladder: Ladder, patience: int) -> None:
    asks: list[Act] = ["raise"] * 80 * patience + ["lower"] * 80 * patience
    weights = run(asks, ladder, patience)
    assert weights[80 * patience - 1] == ladder.largest
    assert weights[-1] == ladder.start


@given(histories, ladders(), patiences, st.integers(0, 40))
def test_going_on_from_any_measurement_gives_the_weights_of_the_unbroken_run(
    asks: list[Act], ladder: Ladder, patience: int, place: int
) -> None:
    whole, place = run(asks, ladder, patience), min(place, len(asks))
    again = run(asks, ladder, patience, weight=whole[place - 1] if place else None, done=place)
    assert whole[place:] == again


@given(histories.filter(bool), patiences)
def test_it_acts_once_for_every_full_patience(asks: list[Act], patience: int) -> None:
    ladder = Ladder(1.0, 1.0, 2.0, 2.0**50)
    weights = [2.0**20]
    for place in range(len(asks)):
        weights.append(next_weight(asks[: place + 1], weights[-1], ladder, patience))
    last = in_a_row(asks)
    moved = sum(before != after for before, after in pairwise(weights[len(asks) - last :]))
    assert moved == (0 if asks[-1] == "keep" else last // patience)


def test_only_what_is_outside_asks_for_more_and_only_what_is_well_inside_for_less() -> None:
    asks = {(state, settled): asked(state, settled) for state in get_args(State) for settled in (True, False)}
    assert [key for key, ask in asks.items() if ask == "raise"] == [("outside", True), ("outside", False)]
    assert [key for key, ask in asks.items() if ask == "lower"] == [("inside", True)]
