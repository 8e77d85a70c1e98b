"""A margin: what an interval says of it, whatever the scale, the unit and the harmful side."""

from __future__ import annotations

from math import exp, inf, log, nan

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limberlm.errors import UserError
from limberlm.geometry.catalog import CATALOG
from limberlm.interventions.guard.margin import Margin, metric_margin

sizes = st.floats(0.001, 0.5)
changes = st.floats(-0.9, 0.9)
halves = st.floats(1e-6, 0.5)
starts = st.floats(0.5, 500.0)


def state(margin: Margin, change: float, half: float, start: float = 1.0) -> str:
    """Of a change and half its interval on the additive scale."""
    ends = (change - half, change + half)
    return margin.state(*(map(exp, ends) if margin.scale == "log" else ends), start)


@given(sizes, changes, halves, starts)
def test_the_other_harmful_side_is_the_mirror_image(size: float, change: float, half: float, start: float) -> None:
    down, up = (Margin(size, "absolute", harm, "linear") for harm in ("down", "up"))
    assert state(down, change, half, start) == state(up, -change, half, start)


@given(sizes, changes, halves, starts, st.sampled_from(["log", "linear"]), st.sampled_from(["down", "up"]))
def test_an_absolute_margin_is_the_relative_one_in_the_metrics_unit(
    size: float, change: float, half: float, start: float, scale: str, harm: str
) -> None:
    relative, absolute = Margin(size, "relative", harm, scale), Margin(size * start, "absolute", harm, scale)
    assert relative.bound(start) == pytest.approx(absolute.bound(start))
    assume(abs(relative.bound(start) - (exp(change) if scale == "log" else change)) > half + 1e-6)
    assert state(relative, change, half, start) == state(absolute, change, half, start)


@given(sizes, changes, halves, st.sampled_from(["log", "linear"]), st.sampled_from(["down", "up"]))
def test_a_wider_margin_takes_nothing_out(size: float, change: float, half: float, scale: str, harm: str) -> None:
    narrow, wide = Margin(size, "relative", harm, scale), Margin(1.5 * size, "relative", harm, scale)
    if state(narrow, change, half) == "inside":
        assert state(wide, change, half) == "inside"
    if state(wide, change, half) == "outside":
        assert state(narrow, change, half) == "outside"


@given(sizes, changes, st.sampled_from(["log", "linear"]), st.sampled_from(["down", "up"]))
def test_a_narrow_enough_interval_can_always_tell(size: float, change: float, scale: str, harm: str) -> None:
    margin = Margin(size, "relative", harm, scale)
    sign = 1 if harm == "up" else -1
    bound = sign * (log(margin.bound(1.0)) if scale == "log" else margin.bound(1.0))
    assume(abs(sign * change - bound) > 1e-6)
    assert state(margin, change, 1e-9) == ("inside" if sign * change < bound else "outside")


@given(sizes, changes, halves)
def test_it_cannot_tell_only_where_the_interval_holds_both_no_harm_and_a_breach(
    size: float, change: float, half: float
) -> None:
    holds_both = change - half < -size and change + half >= 0
    assert (state(Margin(size, "absolute", "down", "linear"), change, half) == "cannot tell") == holds_both


@given(sizes)
def test_no_change_at_all_is_inside_and_no_interval_cannot_tell(size: float) -> None:
    margin = Margin(size)
    assert margin.state(1.0, 1.0, 10.0) == "inside"
    assert margin.state(nan, nan, 10.0) == "cannot tell"


def test_a_margin_that_cannot_be_left_or_is_none_is_refused() -> None:
    for size in (0.0, -0.1, nan, inf):
        with pytest.raises(UserError, match="margin="):
            Margin(size)
    with pytest.raises(UserError, match="no fall"):
        Margin(1.0).bound(10.0)
    with pytest.raises(UserError, match="no fall"):
        Margin(12.0, "absolute").bound(10.0)
    with pytest.raises(UserError, match="make it absolute"):
        Margin(0.1, "relative", "up", "linear").bound(0.0)


def test_harm_and_scale_are_the_catalogs() -> None:
    for name, harm, scale in (("effective_rank", "down", "log"), ("anisotropy", "up", "linear")):
        margin = metric_margin(name, 0.05, "relative")
        assert (margin.harm, margin.scale) == (harm, scale) == (CATALOG[name].direction, CATALOG[name].scale)
    assert metric_margin("effective_rank", 0.05, "relative", "up").harm == "up"


def test_a_metric_that_is_none_drifts_or_has_no_interval_is_refused() -> None:
    with pytest.raises(UserError, match=r'metric: no metric "efective_rank"; nearest: effective_rank'):
        metric_margin("efective_rank", 0.05, "relative")
    with pytest.raises(UserError, match="metric: cka has no harmful side"):
        metric_margin("cka", 0.05, "relative")
    with pytest.raises(UserError, match="metric: subspace_overlap_32 has no interval"):
        metric_margin("subspace_overlap_32", 0.05, "relative", "down")
