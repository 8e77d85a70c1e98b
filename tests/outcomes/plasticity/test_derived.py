"""Gap, headroom gain and recovery cost on planted rows, against closed forms and brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from limberlm.outcomes.plasticity import count_undefined, headroom_gain, plasticity_gap, recovery_cost
from limberlm.outcomes.table import outcome_row, outcome_table
from tests.outcomes.plasticity.probing import Rows, said

SAID = {"learning_rate": 1e-3, "batch_size": 4}


def scores(before: Any, after: Any, task: str = "cipher", **changes: Any) -> Rows:
    return [
        outcome_row("score_before", task, list(map(float, before)), kind="share"),
        outcome_row("future_score", task, list(map(float, after)), kind="share", settings=SAID | changes),
    ]


def losses(curve: dict[int, Any], task: str = "cipher") -> Rows:
    return [
        outcome_row("future_loss", task, list(items), step=step, settings=SAID | {"tokens": 10 * step})
        for step, items in curve.items()
    ]


def test_the_gap_is_what_the_base_gets_right_and_the_checkpoint_does_not() -> None:
    base, now = scores([0] * 4, [1, 1, 1, 0]), scores([0] * 4, [1, 0, 0, 0])
    [row] = plasticity_gap(base, now)
    assert (row["outcome"], row["task"], row["value"], row["items"]) == ("plasticity_gap", "cipher", 0.5, [0, 1, 1, 0])
    wanted = outcome_row("x", "x", [0.0, 1.0, 1.0, 0.0], kind="paired")
    assert (row["low"], row["high"]) == (wanted["low"], wanted["high"])
    assert plasticity_gap(now, base)[0]["value"] == -0.5
    assert said(row) == SAID


def test_a_gap_in_loss_has_the_other_sign_and_students_paired_interval() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.normal(2, 1, 12), rng.normal(2.5, 1, 12)
    base, now = ([outcome_row("loss_after", "cipher", x.tolist(), settings=SAID)] for x in (one, two))
    [row] = plasticity_gap(base, now, "loss_after")
    assert row["value"] == pytest.approx(np.mean(two - one))
    interval = stats.ttest_rel(two, one).confidence_interval()
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


def test_only_like_is_compared() -> None:
    with pytest.raises(ValueError, match="not read on the same items"):
        plasticity_gap(scores([0], [1]), scores([0, 0], [1, 1]))
    with pytest.raises(ValueError, match="same budget"):
        plasticity_gap(scores([0], [1]), scores([0], [1], steps=9))
    with pytest.raises(ValueError, match="no gap is defined for future_kl"):
        plasticity_gap([], [], "future_kl")
    assert plasticity_gap(scores([0], [1]), scores([0], [1], task="codebook")) == []
    assert plasticity_gap(scores([0], [1]), scores([0], [1], learning_rate=2e-3)) == []
    with pytest.raises(ValueError, match="not read on the same items"):
        headroom_gain(scores([0] * 4, [1] * 4), ceiling=scores([0] * 3, [1] * 3))


def test_headroom_gain_is_the_share_of_what_was_left() -> None:
    before, after = [1, 0, 0, 0, 0] * 4, [1, 1, 0, 0, 0] * 4
    [row] = headroom_gain(scores(before, after))
    assert row["value"] == pytest.approx((0.4 - 0.2) / (1 - 0.2))
    assert np.mean(row["items"]) == pytest.approx(row["value"])
    assert said(row) == SAID | {"ceiling": 1.0}
    top = [1, 1, 1, 0, 0] * 4
    [row] = headroom_gain(scores(before, after), ceiling=scores(before, top))
    assert row["value"] == pytest.approx(0.2 / 0.4)
    assert headroom_gain(scores(before, after), ceiling=scores(before, top, learning_rate=1.0)) == []


def test_its_interval_is_that_of_a_ratio_of_paired_means() -> None:
    rng = np.random.default_rng(1)
    before = rng.random(400) < 0.2
    after = before | (rng.random(400) < 0.5)
    [row] = headroom_gain(scores(before, after))
    drawn = rng.integers(400, size=(4000, 400))
    ratios = (after[drawn].mean(1) - before[drawn].mean(1)) / (1 - before[drawn].mean(1))
    assert row["std_error"] == pytest.approx(ratios.std(), rel=0.06)


@pytest.mark.parametrize(
    ("before", "ceiling"),
    [
        ([1] * 20, 1.0),  # nothing left
        ([0.0] * 20, 0.0),  # a ceiling of nothing
        ([1] * 19 + [0], 1.0),  # 0.05 left, at a standard error of 0.05
        ([1, 0] * 10, 0.4),  # the ceiling below the start
    ],
)
def test_without_headroom_there_is_no_gain_and_it_is_counted(before: list[float], ceiling: float) -> None:
    rows = headroom_gain([*scores(before, before), *scores([0] * 20, [1, 0] * 10, task="records")], ceiling=ceiling)
    assert math.isnan(rows[0]["value"])
    assert rows[0]["n"] == 20
    assert count_undefined(rows) == (2 if ceiling == 0 else 1)


CURVE = {0: [4.0, 5.0], 5: [3.0, 4.0], 10: [2.0, 3.0], 15: [1.0, 2.0]}
SLOW = {step: [x + 1 for x in items] for step, items in CURVE.items()}  # one reading behind


def test_recovery_costs_what_the_checkpoint_is_behind() -> None:
    assert recovery_cost(losses(CURVE), losses(CURVE))[0]["value"] == 0
    [row] = recovery_cost(losses(CURVE), losses(SLOW), at=10)
    assert (row["value"], row["low"], row["high"]) == (50, 50, 50)  # five steps of ten tokens, whichever item is drawn
    assert said(row) == SAID | {"at": 10, "censored": False, "unit": "tokens"}
    assert recovery_cost(losses(SLOW), losses(CURVE))[0]["value"] == -50


def test_what_is_never_recovered_is_a_lower_bound() -> None:
    [row] = recovery_cost(losses(CURVE), losses(SLOW))
    assert (row["value"], row["high"], said(row)["censored"]) == (0, math.inf, True)
    longer = SLOW | {30: [0.5, 0.5]}
    [row] = recovery_cost(losses(CURVE), losses(longer))
    assert (row["value"], said(row)["censored"]) == (150, False)


def test_its_interval_draws_the_same_items_for_both() -> None:
    rng = np.random.default_rng(3)
    level, grid = rng.normal(0, 2, 30), np.arange(0, 40, 5)
    base = {int(k): (6 - 0.1 * k + level).tolist() for k in grid}
    other = {int(k): (6 - 0.08 * k + level + rng.normal(0, 0.1, 30)).tolist() for k in grid}
    [row] = recovery_cost(losses(base), losses(other), at=20)
    one, two = (np.array(list(curve.values())) for curve in (base, other))
    extra = []
    for _ in range(2000):
        drawn = rng.integers(30, size=30)
        a, b = one[:, drawn].mean(1), two[:, drawn].mean(1)
        extra.append(10 * (grid[b <= a[4]].min() - grid[a <= a[4]].min()))
    assert (row["low"], row["high"]) == tuple(np.quantile(extra, (0.025, 0.975), method="inverted_cdf"))
    assert row["low"] <= row["value"] <= row["high"] <= 100  # unpaired, the items' own spread would hide it


def test_it_wants_the_same_items_and_a_reading_at_that_step() -> None:
    with pytest.raises(ValueError, match="same items"):
        recovery_cost(losses(CURVE), losses({0: [1.0], 5: [1.0]}))
    with pytest.raises(ValueError, match="not read at step 7"):
        recovery_cost(losses(CURVE), losses(CURVE), at=7)


def test_rows_may_come_from_a_table() -> None:
    table = outcome_table([*scores([0] * 4, [1, 1, 0, 0]), *losses(CURVE)]).to_dict("records")
    assert plasticity_gap(table, table)[0]["value"] == 0
    assert headroom_gain(table)[0]["value"] == 0.5
    assert recovery_cost(table, table)[0]["value"] == 0
