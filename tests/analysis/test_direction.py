"""Directions of stages, read from geometries of real models whose final norm is known to narrow or widen the states."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau, t

from limberlm.analysis import Direction, over_seeds, stage_direction
from limberlm.analysis.direction import Change, word_of
from limberlm.errors import UserError
from limberlm.geometry import paired_difference
from limberlm.observe import Geometry, measure
from tests.observe.tiny import random_probe, tiny

METRICS = ["effective_rank", "alpha_req", "head_removed_rank_8"]
PROBE = random_probe(700, 8)


def narrowed(power: float) -> Geometry:
    """A model whose final norm weighs coordinate i by i^-power: the larger the power, the fewer directions are left."""
    model = tiny(hidden_size=128, num_hidden_layers=1, seed=3)
    weight = model.model.norm.weight.data
    weight.copy_(weight.new_tensor(range(1, len(weight) + 1)) ** -power)
    return measure(model, PROBE, preset="rankme_lasttoken", metrics=METRICS)


@pytest.fixture(scope="module")
def series() -> list[Geometry]:
    return [narrowed(power) for power in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]


def test_a_narrowing_stage_compresses_and_its_reverse_expands(series: list[Geometry]) -> None:
    down = stage_direction(series[0], series[-1], series[1:-1])
    up = stage_direction(series[-1], series[0], series[-2:0:-1])
    assert (down.word, up.word) == ("compresses", "expands")
    assert (down.rank.monotone, up.rank.monotone) == (True, True)
    assert (down.rank.tau, up.rank.tau) == (pytest.approx(-1), pytest.approx(1))
    assert down.rank.change == pytest.approx(-up.rank.change)
    assert (down.rank.low, down.rank.high) == pytest.approx((-up.rank.high, -up.rank.low))
    assert down.alpha is not None
    assert down.head_removed is not None
    assert (down.alpha.word, down.head_removed.word) == ("rises", "compresses")
    assert down.sentence.startswith("Compresses, monotonically: effective rank changed by -")


def test_the_interval_is_the_paired_jackknife_of_the_stored_values(series: list[Geometry]) -> None:
    found = stage_direction(series[0], series[2])
    for change, name, scale in (
        (found.rank, "effective_rank", "log"),
        (found.alpha, "alpha_req", "linear"),
        (found.head_removed, "head_removed_rank_8", "log"),
    ):
        a, b = (one.row(name, "final_norm", "last") for one in (series[0], series[2]))
        by_hand = paired_difference(a["value"], a["replicates"], b["value"], b["replicates"], scale=scale)
        expected = np.array([by_hand.corrected, by_hand.low, by_hand.high])
        expected = np.log(expected) if scale == "log" else expected
        assert change is not None
        assert [change.change, change.low, change.high] == pytest.approx(expected.tolist())


def test_a_stage_with_zero_learning_rate_is_no_change(series: list[Geometry]) -> None:
    again = narrowed(0.0)
    found = stage_direction(series[0], again, [again, series[0]])
    assert found.word == "no change"
    assert (found.rank.change, found.rank.low, found.rank.high) == (0, 0, 0)
    assert not found.rank.monotone
    assert found.alpha is not None
    assert found.alpha.word == "no change"
    assert found.sentence == "No change: effective rank changed by +0.0 % (95 % +0.0 % to +0.0 %)."


def test_tau_is_that_of_the_values_in_order(series: list[Geometry]) -> None:
    order = [0, 2, 1, 3, 5, 4]
    chosen = [series[i] for i in order]
    found = stage_direction(chosen[0], chosen[-1], chosen[1:-1])
    values = [one.value("effective_rank_corrected", "final_norm", "last") for one in chosen]
    expected = kendalltau(range(6), values)
    assert (found.rank.tau, found.rank.tau_p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.rank.checkpoints == 6


def test_two_checkpoints_are_never_monotone(series: list[Geometry]) -> None:
    found = stage_direction(series[0], series[-1])
    assert np.isnan(found.rank.tau)
    assert not found.rank.monotone
    assert found.word == "compresses"


def test_a_margin_wider_than_the_interval_makes_it_no_change(series: list[Geometry]) -> None:
    whole = stage_direction(series[0], series[-1]).rank
    assert stage_direction(series[0], series[-1], margin=1.01 * abs(whole.low)).word == "no change"
    assert stage_direction(series[0], series[-1], margin=abs(whole.change)).word == "inconclusive"


def test_without_blocks_nothing_is_concluded(series: list[Geometry]) -> None:
    without = []
    for one in (series[0], series[-1]):
        table = one.table.copy()
        table["replicates"] = [[float("nan")] * len(own) for own in table["replicates"]]
        without.append(replace(one, table=table))
    found = stage_direction(*without)
    assert found.word == "inconclusive"
    start, end = (one.value("effective_rank", "final_norm", "last") for one in (series[0], series[-1]))
    assert found.rank.change == pytest.approx(np.log(end / start))
    assert "without an interval" in found.sentence
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["rank"]["low"] is None


def test_geometries_measured_otherwise_are_refused(series: list[Geometry]) -> None:
    model = tiny(hidden_size=128, num_hidden_layers=1, seed=3)
    other = measure(model, random_probe(700, 8, seed=1), preset="rankme_lasttoken", metrics=METRICS)
    with pytest.raises(UserError, match="probe digest differs"):
        stage_direction(series[0], other)
    with pytest.raises(UserError, match="probe digest differs"):
        stage_direction(series[0], series[1], [other])
    with pytest.raises(UserError, match=r"effective_rank at block\.0, last"):
        stage_direction(series[0], series[1], site="block.0")
    with pytest.raises(ValueError, match="margin"):
        stage_direction(series[0], series[1], margin=-0.1)


def test_what_the_geometries_lack_is_left_out(series: list[Geometry]) -> None:
    small = [replace(one, table=one.table[one.table["metric"].str.startswith("effective")]) for one in series[:2]]
    found = stage_direction(*small)
    assert (found.alpha, found.head_removed) == (None, None)
    assert found.as_dict()["alpha"] is None


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.021, 0.5, "up"),
        (-0.5, -0.021, "down"),
        (-0.02, 0.02, "no change"),
        (0.005, 0.015, "no change"),
        (0.01, 0.03, "inconclusive"),
        (-0.03, 0.0, "inconclusive"),
        (0.02, 0.03, "inconclusive"),
        (-0.5, 0.5, "inconclusive"),
        (float("nan"), float("nan"), "inconclusive"),
    ],
)
def test_classes_follow_the_interval_and_the_margin(low: float, high: float, word: str) -> None:
    assert word_of(low, high, 0.02, ("up", "down")) == word


# --- over seeds


def direction(change: float, half: float = 0.01) -> Direction:
    word = word_of(change - half, change + half, 0.02, ("expands", "compresses"))
    rank = Change("effective_rank", change, change - half, change + half, word, float("nan"), float("nan"), False, 2)
    return Direction(rank, replace(rank, metric="alpha_req", word="falls"), None)


def test_the_interval_over_seeds_is_that_of_a_mean() -> None:
    changes = [0.10, 0.14, 0.09, 0.12]
    found = over_seeds([direction(change) for change in changes]).rank
    interval = t.interval(0.95, 3, np.mean(changes), np.std(changes, ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(interval)
    assert (found.mean, found.word, found.agrees) == (pytest.approx(np.mean(changes)), "expands", True)


def test_seeds_that_differ_do_not_agree() -> None:
    found = over_seeds([direction(0.10), direction(0.12), direction(-0.10)])
    assert not found.rank.agrees
    assert found.rank.word == "inconclusive"
    assert found.sentence.startswith("3 seeds differ (expands, expands, compresses)")


def test_two_seeds_or_one_are_no_claim() -> None:
    two, one = over_seeds([direction(0.10)] * 2), over_seeds([direction(0.10)])
    assert not two.rank.agrees
    assert two.sentence.endswith("; a claim needs 3 seeds.")
    assert np.isnan(one.rank.low)
    assert one.sentence == "Expands in one seed: nothing is known about others."


def test_doubt_in_every_seed_is_no_agreement() -> None:
    found = over_seeds([direction(0.02, 0.05)] * 3)
    assert not found.rank.agrees
    assert "3 seeds are each inconclusive" in found.sentence


def test_the_summary_has_what_every_seed_has_and_survives_json() -> None:
    found = over_seeds([direction(0.1), direction(0.11), direction(0.12)])
    assert found.alpha is not None
    assert found.head_removed is None
    record = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert record["rank"]["words"] == ["expands"] * 3
    with pytest.raises(UserError, match="no run was given"):
        over_seeds([])
