"""How often `compare` finds a change: where there is none, and where it is as small as it says it can find."""

from __future__ import annotations

import pandas as pd
import pytest

from limberlm.observe import compare
from limberlm.observe.metrics.summary import summarise
from tests.observe.calibration import CHANGED, power, usual
from tests.observe.synthetic_pass import USUAL, geometry, passes, scaled

COUNT = 500
FAMILIES = {"spectrum", "isotropy", "dimension", "domains", "logits", "trajectories", "similarity"}


def told(table: pd.DataFrame) -> str:
    return table[["family", "convention", "metric", "rejected"]].to_string()


def test_a_stage_that_changed_nothing_is_certain_to_have_changed_nothing() -> None:
    with scaled(USUAL):
        tables = [geometry(summarise(passes(USUAL, USUAL.sequences, 0)[0])) for _ in range(2)]
    found = compare(*tables).table
    assert set(found["p_value"]) == {1.0}
    assert set(found["std_error"]) == {0.0}
    assert (found["low"] == found["high"]).all()
    assert len(found) == len(USUAL.metrics) + sum(len(metric.conventions) - 1 for metric in USUAL.metrics)


@pytest.mark.slow
def test_without_a_change_one_test_in_twenty_finds_one() -> None:
    table = usual(COUNT, 8)[1]
    assert set(table["family"]) == FAMILIES
    families = table.groupby("family")["rejected"].mean()
    assert families.between(0.03, 0.07).all(), told(table)
    assert table["rejected"].between(0.02, 0.08).all(), told(table)  # a single one, chance allowed for


@pytest.mark.slow
def test_a_change_of_the_least_detectable_size_is_found_four_times_out_of_five() -> None:
    table = power(200)
    assert set(table["metric"]) == set(CHANGED)
    assert table["effect"].between(0.9, 1.1).all(), told(table)
    assert table["rejected"].between(0.7, 0.9).all(), told(table)
    assert (table["rejected"] - table["expected"]).abs().max() < 0.09, told(table)
