"""Pass, fail and inconclusive: every cell of the table, and how criteria make one verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.analysis.gate import Verdict
from limberlm.analysis.gate.judgement import Case, decide, judge
from limberlm.analysis.gate.paired import Paired
from limberlm.analysis.gate.verdict import decided

# interval, then the decision where up, down and both are harmful; the margin is 1
CELLS = [
    ((-0.5, 0.5), "pass", "pass", "pass"),
    ((-2.5, -1.5), "pass", "fail", "fail"),
    ((1.5, 2.5), "fail", "pass", "fail"),
    ((-1.5, 0.5), "pass", "inconclusive", "inconclusive"),
    ((-0.5, 1.5), "inconclusive", "pass", "inconclusive"),
    ((-1.5, 1.5), "inconclusive", "inconclusive", "inconclusive"),
    ((-0.5, 1.0), "inconclusive", "pass", "inconclusive"),  # a margin that is touched is not kept, and not exceeded
    ((1.0, 1.5), "inconclusive", "pass", "inconclusive"),
    ((-1.0, 0.5), "pass", "inconclusive", "inconclusive"),
    ((-1.5, -1.0), "pass", "inconclusive", "inconclusive"),
    ((0.0, 0.0), "pass", "pass", "pass"),
]
STEADY = Paired("blocks", tuple(0.01 * (i % 3) for i in range(16)))
PASSING = Case("a", "up", "linear", 1.0, paired=STEADY)
FAILING = replace(PASSING, name="b", margin=0.001)
OPEN = replace(PASSING, name="c", margin=0.01)
MISSING = Case("d", "up", "linear", 1.0, reason="the candidate has no d")
ABOUT = {"policy": {}, "baseline": {}, "candidate": {}, "noise": (), "versions": {}}


@pytest.mark.parametrize(("interval", "up", "down", "both"), CELLS)
def test_every_cell(interval: tuple[float, float], up: str, down: str, both: str) -> None:
    assert [decide(*interval, 1.0, harmful) for harmful in ("up", "down", "both")] == [up, down, both]


@given(low=st.floats(-10, 10), width=st.floats(0, 10), margin=st.floats(0.01, 10))
def test_down_is_up_mirrored_and_both_is_the_worse_of_the_two(low: float, width: float, margin: float) -> None:
    high = low + width
    up, down = decide(low, high, margin, "up"), decide(low, high, margin, "down")
    assert down == decide(-high, -low, margin, "up")
    rank = ["pass", "inconclusive", "fail"].index
    assert decide(low, high, margin, "both") == max((up, down), key=rank)


@given(low=st.floats(-10, 10), width=st.floats(0, 10), margin=st.floats(0.01, 10), more=st.floats(0, 10))
def test_a_wider_interval_never_settles_what_was_open(low: float, width: float, margin: float, more: float) -> None:
    for harmful in ("up", "down", "both"):
        wide = decide(low - more, low + width + more, margin, harmful)
        assert wide in (decide(low, low + width, margin, harmful), "inconclusive")


@pytest.mark.parametrize(
    ("interval", "margin"),
    [((float("nan"), 1.0), 1.0), ((0.0, float("nan")), 1.0), ((1.0, 0.0), 1.0), ((0.0, 1.0), 0.0)],
)
def test_what_is_no_interval_or_no_margin_is_never_decided(interval: tuple[float, float], margin: float) -> None:
    with pytest.raises(ValueError, match="margin > 0"):
        decide(*interval, margin, "up")


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([PASSING], "pass"),
        ([PASSING, PASSING], "pass"),
        ([OPEN], "inconclusive"),
        ([PASSING, OPEN], "inconclusive"),
        ([FAILING], "fail"),
        ([PASSING, FAILING], "fail"),
        ([OPEN, FAILING, PASSING], "fail"),
        ([MISSING], "fail"),
        ([PASSING, MISSING], "fail"),
        ([OPEN, MISSING], "fail"),
    ],
)
def test_a_fail_needs_one_and_a_pass_needs_all(cases: list[Case], expected: str) -> None:
    assert decided(cases, 0.95, 0, ABOUT).decision == expected


def test_what_is_missing_fails_with_its_reason() -> None:
    verdict = decided([PASSING, MISSING], 0.95, 0, ABOUT)
    assert verdict.reasons == ["d: the candidate has no d"]
    assert verdict.exit_code == 2


@pytest.mark.parametrize("kind", ["blocks", "counts", "items"])
def test_too_few_pairs_for_an_interval_fail(kind: str) -> None:
    few = judge(replace(PASSING, paired=Paired(kind, (0.0,) * 7)), 0.95, 0)
    assert (few.decision, few.low) == ("fail", None)
    assert few.reason == f"7 {'blocks of texts' if kind == 'blocks' else 'items'}, an interval needs 8"
    assert judge(replace(PASSING, paired=Paired(kind, (0.0,) * 8)), 0.95, 0).decision != "fail"


def test_the_noise_floor_takes_the_place_of_a_smaller_margin() -> None:
    assert judge(FAILING, 0.95, 0).decision == "fail"
    assert judge(replace(FAILING, noise=(0.1, 1.0, 0.0)), 0.95, 0).decision == "pass"
    assert judge(replace(PASSING, noise=(0.1,)), 0.95, 0).margin == 1.0


@given(
    values=st.lists(st.floats(-1, 1), min_size=8, max_size=20),
    margin=st.floats(0.01, 2),
    harmful=st.sampled_from(["up", "down", "both"]),
    noise=st.lists(st.floats(0, 1), max_size=3),
    kind=st.sampled_from(["blocks", "items"]),
)
def test_a_verdict_is_decided_again_from_its_json(
    values: list[float], margin: float, harmful: str, noise: list[float], kind: str
) -> None:
    case = Case("x", harmful, "linear", margin, tuple(noise), 1.0, 2.0, 10, "items", Paired(kind, tuple(values)))
    verdict = decided([case, MISSING], 0.975, 3, ABOUT)
    read = Verdict.from_json(json.loads(json.dumps(verdict.to_json())))
    assert read == verdict
    assert read.replayed() == verdict


def test_a_verdict_that_was_tampered_with_does_not_replay() -> None:
    record = decided([FAILING], 0.95, 0, ABOUT).to_json()
    record["decision"] = record["judgements"][0]["decision"] = "pass"
    assert Verdict.from_json(record).replayed().decision == "fail"
