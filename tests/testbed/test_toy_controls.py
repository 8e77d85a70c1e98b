"""The toy model's controls: how often independent starts show the decline, and what it owes to its jitter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.testbed.toy_controls import CONTROLS, Summary, run_jittered, summarise, swings


@pytest.fixture(scope="module")
def found() -> dict[str, Summary]:
    return {control.name: summarise(control) for control in CONTROLS}


def test_iid_starts_rarely_show_the_decline_and_show_it_more_under_squared_error(found: dict[str, Summary]) -> None:
    assert CONTROLS[0].seeds == 60
    skew = found["skew 2 2 1 1, d = 2"].declines
    assert skew <= 0.15
    assert found["squared error, skew"].declines > skew
    assert found["squared error, uniform"].declines > skew


def test_the_uniform_and_the_squared_controls_fall_too_by_the_other_measure(found: dict[str, Summary]) -> None:
    # by the largest fall the contrast that is claimed is weaker still
    assert {name: round(own.falls, 2) for name, own in found.items()} == {
        "skew 2 2 1 1, d = 2": 0.25,
        "same, 3,000 steps": 0.3,
        "uniform 2 2 2 2, d = 2": 0.15,
        "no bottleneck, d = 3": 0.25,
        "squared error, skew": 0.45,
        "squared error, uniform": 0.28,
    }


@pytest.mark.parametrize(
    ("control", "wanted"),
    [
        ("skew 2 2 1 1, d = 2", (0.07, 0.07, 1.61, 1.992)),
        ("same, 3,000 steps", (0.03, 0.03, 1.62, 1.999)),
        ("uniform 2 2 2 2, d = 2", (0.02, 0.00, 1.64, 1.999)),
        ("no bottleneck, d = 3", (0.08, 0.08, 2.15, 2.77)),
        ("squared error, skew", (0.42, 0.18, 1.70, 1.991)),
        ("squared error, uniform", (0.23, 0.10, 1.72, 1.987)),
    ],
)
def test_the_table_of_controls_is_reproduced(
    control: str, wanted: tuple[float, float, float, float], found: dict[str, Summary]
) -> None:
    own = found[control]
    assert [own.declines, own.strong_declines] == pytest.approx(wanted[:2], abs=0.005)
    assert [own.dip, own.peak] == pytest.approx(wanted[2:], abs=0.005)


@pytest.mark.parametrize(
    ("scale", "low", "high"),
    [(1e-1, 0.0, 0.0024), (1e-2, 0.0017, 0.0061), (1e-4, 0.0001, 0.0056), (1e-5, 0.0, 0.0001)],
)
def test_the_decline_of_the_golden_setting_depends_on_its_jitter(scale: float, low: float, high: float) -> None:
    declines = swings(run_jittered(scale).rank).decline
    assert [declines.min(), declines.max()] == pytest.approx([low, high], abs=1e-4)


def test_seeds_without_a_decline_fork_after_the_window() -> None:
    run = run_jittered(1e-3, steps=3000)
    window = swings(run.rank[:301]).decline
    assert window == pytest.approx([0.0063, 0.0001, 0.0061, 0.0063, 0.0064, 0.0001, 0.0066, 0.0039], abs=6e-5)
    falls = swings(run.rank).fall
    assert 0.0061 - 5e-5 < falls.min() < falls.max() < 0.0068 + 5e-5


@given(st.lists(st.floats(1, 2), min_size=3, max_size=30))
def test_swings_are_found_by_hand(curve: list[float]) -> None:
    found = swings(np.array(curve)[:, None], within=2)
    start = int(np.argmin(curve[:2]))
    top = start + int(np.argmax(curve[start:]))
    assert (found.dip[0], found.peak[0]) == (curve[start], curve[top])
    assert found.decline[0] == curve[top] - min(curve[top:])
    assert found.fall[0] == max(a - b for i, a in enumerate(curve[start:]) for b in curve[start:][i:])
    assert found.fall[0] >= found.decline[0] >= 0
