"""One row per outcome: its mean, standard error and interval against independent calculations.

Jackknife items make any statistic such a row: its value, its jackknife error, and paired differences.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from limberlm.geometry import jackknife
from limberlm.outcomes.table import COLUMNS, jackknife_items, outcome_row, outcome_table

SCORES = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=40)


@given(scores=SCORES)
def test_a_mean_has_students_interval(scores: list[float]) -> None:
    row = outcome_row("loss", "t", scores)
    assert row["value"] == pytest.approx(np.mean(scores), abs=1e-12)
    assert row["std_error"] == pytest.approx(stats.sem(scores), rel=1e-9, abs=1e-12)
    half = stats.t.ppf(0.975, len(scores) - 1) * stats.sem(scores)
    assert (row["low"], row["high"]) == (
        pytest.approx(np.mean(scores) - half, abs=1e-9),
        pytest.approx(np.mean(scores) + half, abs=1e-9),
    )
    assert (row["n"], row["items"]) == (len(scores), scores)


@given(right=st.integers(0, 60), wrong=st.integers(0, 60))
def test_a_share_has_wilsons_interval(right: int, wrong: int) -> None:
    assume(right + wrong > 0)
    row = outcome_row("accuracy", "t", [1.0] * right + [0.0] * wrong, kind="share")
    low, high = proportion_confint(right, right + wrong, method="wilson")
    assert row["value"] == pytest.approx(right / (right + wrong))
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert 0 <= row["low"] <= row["value"] <= row["high"] + 1e-12 <= 1 + 1e-12


def test_weights_give_a_ratio_of_sums_with_its_standard_error_by_hand() -> None:
    # losses per token 2, 1, 4 over 1, 3, 2 tokens: 13 nats over 6 tokens
    row = outcome_row("loss", "t", [2.0, 1.0, 4.0], weights=[1, 3, 2])
    ratio = 13 / 6
    residuals = [2 - ratio, 3 - 3 * ratio, 8 - 2 * ratio]  # nats minus ratio times tokens; mean tokens 2
    error = math.sqrt(sum(r**2 for r in residuals) / 2 / 3) / 2
    assert row["value"] == pytest.approx(ratio, rel=1e-12)
    assert row["std_error"] == pytest.approx(error, rel=1e-12)
    assert row["high"] - row["value"] == pytest.approx(stats.t.ppf(0.975, 2) * error, rel=1e-12)


@given(scores=SCORES, weight=st.floats(0.1, 9))
def test_equal_weights_change_nothing(scores: list[float], weight: float) -> None:
    plain, weighted = outcome_row("l", "t", scores), outcome_row("l", "t", scores, weights=[weight] * len(scores))
    for column in ("value", "std_error", "low", "high"):
        assert weighted[column] == pytest.approx(plain[column], rel=1e-9, abs=1e-9)


def test_the_ratios_standard_error_is_the_spread_of_ratios_over_draws() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (4000, 60))
    losses = rng.normal(2 + 0.1 * tokens, 1 / np.sqrt(tokens))
    ratios = (losses * tokens).sum(1) / tokens.sum(1)
    errors = [outcome_row("l", "t", x, weights=w)["std_error"] for x, w in zip(losses[:300], tokens, strict=False)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(ratios.std(), rel=0.05)


# Bonett and Price (2012), adjusted Wald: add one to each kind of change and two to the count.
@pytest.mark.parametrize(
    ("gained", "lost", "same"), [(0, 0, 20), (5, 2, 13), (20, 0, 0), (0, 20, 0), (1, 0, 0), (30, 30, 4)]
)
def test_paired_changes_have_bonett_and_prices_interval(gained: int, lost: int, same: int) -> None:
    row = outcome_row("retention", "t", [1.0] * gained + [-1.0] * lost + [0.0] * same, kind="paired")
    n = gained + lost + same
    p12, p21 = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = stats.norm.ppf(0.975) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 2))
    assert row["value"] == pytest.approx((gained - lost) / n)
    assert row["low"] == pytest.approx(max(-1, p12 - p21 - half), abs=1e-12)
    assert row["high"] == pytest.approx(min(1, p12 - p21 + half), abs=1e-12)
    assert row["high"] - row["low"] > 0.03  # never without width, even where nothing changed


def test_the_paired_interval_covers_the_true_change() -> None:
    rng = np.random.default_rng(0)
    changes = rng.choice([1.0, -1.0, 0.0], p=[0.05, 0.15, 0.8], size=(2000, 64))
    rows = [outcome_row("r", "t", items.tolist(), kind="paired") for items in changes]
    covered = np.mean([row["low"] <= -0.1 <= row["high"] for row in rows])
    assert 0.93 < covered < 0.98


def test_one_item_has_no_standard_error() -> None:
    row = outcome_row("loss", "t", [2.5])
    assert row["value"] == 2.5
    assert all(math.isnan(row[column]) for column in ("std_error", "low", "high"))


def test_a_row_names_what_it_is() -> None:
    row = outcome_row("future_loss", "codebook", [1.0, 2.0], split="out_of_domain", step=5)
    assert tuple(row) == COLUMNS
    named = {name: row[name] for name in ("outcome", "task", "split", "step")}
    assert named == {"outcome": "future_loss", "task": "codebook", "split": "out_of_domain", "step": 5}
    assert row["settings"] is None


def test_settings_are_kept_whole_and_read_alike_in_whatever_order_they_were_given() -> None:
    one = outcome_row("pass@4", "t", [1.0], settings={"top_p": 0.9, "temperature": 1})
    other = outcome_row("pass@4", "t", [1.0], settings={"temperature": 1, "top_p": 0.9})
    assert one["settings"] == other["settings"]
    assert json.loads(one["settings"]) == {"temperature": 1, "top_p": 0.9}


def test_the_table_keeps_its_columns_and_types_and_survives_parquet(tmp_path: Path) -> None:
    rows = [
        outcome_row("loss", "t", [1.0, 2.0]),
        outcome_row("future_loss", "t", [1.0, 3.0], step=0, settings={"a": 1}),
    ]
    for table in (outcome_table(rows), outcome_table(rows[:1]), outcome_table([])):
        assert tuple(table.columns) == COLUMNS
        assert (str(table["step"].dtype), str(table["n"].dtype)) == ("Int64", "int64")
    outcome_table(rows).to_parquet(tmp_path / "outcomes.parquet", index=False)
    back = pd.read_parquet(tmp_path / "outcomes.parquet")
    assert back["step"].isna().tolist() == [True, False]
    assert back["items"].map(list).tolist() == [[1.0, 2.0], [1.0, 3.0]]
    assert back["value"].tolist() == [1.5, 2.0]
    assert [None if pd.isna(said) else said for said in back["settings"]] == [None, '{"a": 1}']


NUMBERS = st.lists(st.floats(-50, 50).map(lambda x: round(x, 3)), min_size=2, max_size=30)


def left_out(numbers: np.ndarray, statistic) -> list[float]:
    return [float(statistic(np.delete(numbers, i))) for i in range(len(numbers))]


@given(NUMBERS)
def test_of_a_mean_the_items_are_the_numbers(numbers: list[float]) -> None:
    values = np.array(numbers)
    assert jackknife_items(float(values.mean()), left_out(values, np.mean)) == pytest.approx(numbers, abs=1e-9)


@given(st.lists(st.floats(0.1, 50), min_size=8, max_size=30))
def test_a_row_of_them_has_the_value_and_the_jackknife_error(numbers: list[float]) -> None:
    values = np.array(numbers)
    value, without = float(np.log(values).sum()), left_out(values, lambda x: np.log(x).sum())
    row = outcome_row("o", "t", jackknife_items(value, without))
    oracle = jackknife(value, without, centre="value")
    assert row["value"] == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert row["std_error"] == pytest.approx(oracle.std_error, rel=1e-6, abs=1e-9)
    assert (row["low"], row["high"]) == (pytest.approx(oracle.low, abs=1e-6), pytest.approx(oracle.high, abs=1e-6))


@given(st.integers(0, 1000))
def test_differences_of_items_are_the_items_of_the_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.normal(size=(2, 12)) ** 2
    parts = [jackknife_items(float(np.median(x)), left_out(x, np.median)) for x in (one, other)]
    both = [a - b for a, b in zip(left_out(other, np.median), left_out(one, np.median), strict=True)]
    change = jackknife_items(float(np.median(other) - np.median(one)), both)
    assert np.subtract(parts[1], parts[0]) == pytest.approx(change, abs=1e-12)


def test_one_part_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"there is 1$"):
        jackknife_items(1.0, [1.0])
