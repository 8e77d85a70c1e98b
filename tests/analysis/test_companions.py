"""Alpha and the rank behind the head beside the phases: they follow, lag, or stand still."""

from __future__ import annotations

from typing import Any

import numpy as np

from limberlm.analysis import Phases, find_phases
from tests.analysis.curves import LAST, Floats, noisy, steps


def phases(values: Floats, **settings: Any) -> Phases:
    return find_phases(steps(len(values)), values, resamples=39, **settings)


def test_a_mirrored_alpha_agrees_a_late_one_lags_and_an_unmoved_one_does_not() -> None:
    values = noisy("F R F", 40, 0.02, 0)
    rng = np.random.default_rng(5)
    late = np.interp(np.linspace(0, 1, 40), [0, 0.4, 0.85, 1], [1, 2, 1, 1.4]) + 0.01 * rng.standard_normal(40)
    unmoved = 1 + 0.01 * rng.standard_normal(40)
    answers = {
        name: [swing.alpha_agrees for swing in phases(values, alpha=alpha).swings]
        for name, alpha in {"mirrored": 5 - values, "late": late, "unmoved": unmoved, "same": values}.items()
    }
    assert answers["mirrored"] == ["yes"] * 3
    assert answers["late"] == ["lagged"] * 3
    assert answers["unmoved"] == ["no"] * 3
    assert "yes" not in answers["same"]


def test_a_change_of_alpha_needs_an_interval_without_zero_to_agree() -> None:
    values = noisy("F R F", 40, 0.02, 0)
    alpha = 5 - values
    drawn = np.random.default_rng(0).standard_normal((16, 40))
    drawn -= drawn.mean(axis=0)
    sure, unsure = (
        phases(values, alpha=alpha, alpha_blocks=alpha + spread * drawn).swings[1].alpha for spread in (0.001, 0.5)
    )
    assert sure is not None
    assert unsure is not None
    assert sure.follows == "yes"
    assert sure.low < sure.change < sure.high < 0
    assert unsure.low < 0 < unsure.high
    assert unsure.follows != "yes"


def test_a_fall_of_the_head_alone_is_called_head_growth() -> None:
    values = noisy("F R F", 40, 0.02, 0)
    u = np.linspace(0, 1, 40)
    behind = np.interp(u, [0, 0.2, 1], [4, 3.5, 5]) + 0.02 * np.random.default_rng(9).standard_normal(40)
    found = phases(values, head_removed=behind, warmup_end=3)
    assert [swing.head_only for swing in found.swings] == [False, False, True]
    start, end = (f"{found.swings[-1].start:,.3g}", f"{LAST:,}")
    assert found.verdict.endswith(
        f"From step {start} to {end} the head grew: the rank behind the first directions is not found to fall along."
    )
    slight = phases(values, head_removed=4 - 0.02 * u).swings[-1]
    assert slight.head_removed is not None
    assert (slight.head_removed.follows, slight.head_only) == ("no", False)  # it fell too, if by little
    shared = phases(values, head_removed=values + 1, warmup_end=3)
    assert [swing.head_only for swing in shared.swings] == [False] * 3
    assert "head grew" not in shared.verdict
    assert {swing.head_only for swing in phases(values).swings} == {None}
