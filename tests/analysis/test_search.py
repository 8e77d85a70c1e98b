"""The search for stretches: its noise, its tests, and what makes it say less."""

from __future__ import annotations

import numpy as np
import pytest

from limberlm.analysis.curve import Curve, make_curve
from limberlm.analysis.noise import departures, noise
from limberlm.analysis.search import Found, search
from limberlm.analysis.trial import Rules, Trial
from limberlm.geometry import jackknife
from tests.analysis.curves import Floats, curve, noisy, steps


def found_in(values: Floats, **rules: float) -> Found:
    return search(make_curve(steps(len(values)), values), Rules(**rules))


def pattern(found: Found) -> str:
    return " ".join(found.letters)


# --- noise


def test_noise_is_read_without_bias_at_uneven_distances() -> None:
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.uniform(0.1, 2.0, 60))
    read = noise(x, 0.3 * rng.standard_normal((400, 60)) + 2 * x)
    assert read.mean() == pytest.approx(0.3, rel=0.03)


def test_departures_have_the_deviation_of_one_point() -> None:
    rng = np.random.default_rng(1)
    x = np.array([0.0, 0.1, 1.0, 3.0, 3.2])
    assert departures(x, rng.standard_normal((20_000, 5))).std(axis=0) == pytest.approx(1, rel=0.03)


def test_a_straight_line_has_no_noise_but_its_rounding() -> None:
    x = np.array([0.0, 0.1, 1.0, 3.0, 3.2])
    assert np.abs(departures(x, 5 - 2 * x)).max() < 1e-12
    assert 0 < noise(x, 5 - 2 * x) < 1e-5


def test_curvature_makes_the_noise_too_large_never_too_small() -> None:
    x = np.linspace(0, 1, 30)
    rng = np.random.default_rng(2)
    errors = 0.01 * rng.standard_normal((100, 30))
    assert (noise(x, errors + 30 * (x - 0.5) ** 2)).mean() > 1.3 * noise(x, errors).mean()


# --- the smallest adequate number


def test_p_values_are_uniform_where_the_constant_is_true() -> None:
    found = []
    for seed in range(120):
        values = np.random.default_rng(seed).standard_normal(15)
        trial = Trial(make_curve(steps(15), values), Rules(resamples=39, max_segments=2, seed=seed))
        found.append(trial.p_values[0])
    shares = [np.mean(np.array(found) <= level) for level in (0.1, 0.25, 0.5, 0.75)]
    assert shares == pytest.approx([0.1, 0.25, 0.5, 0.75], abs=0.09)


def test_p_values_rise_to_one_with_the_number_of_stretches() -> None:
    found = found_in(noisy("F R F", 30, 0.03, 0))
    assert found.p_values[:3] == [0.005, 0.005, 0.005]
    assert found.p_values[3] > 0.05
    assert found.p_values[-1] == 1


def test_more_but_shorter_stretches_are_no_loss_in_the_test() -> None:
    """With 16 checkpoints five stretches of three fit worse than four: the test must not be held to five."""
    trial = Trial(make_curve(steps(16), noisy("F R F, last fall 0.1", 16, 0.015, 0)), Rules())
    cost = trial.fits.cost[:, 0]
    assert cost[5] > cost[3]
    assert pattern(found_in(trial.curve.y)) == "F R F"


def test_noise_free_curves_are_found_exactly() -> None:
    for name in ("F R", "R F", "F R F", "F R F R"):
        found = found_in(curve(name, 41))
        assert pattern(found) == name
        assert found.fit == pytest.approx(curve(name, 41), abs=0.02)
        assert not found.outliers


def test_equal_values_are_no_stretch() -> None:
    found = found_in(np.full(20, 3.7))
    assert (pattern(found), found.changes, found.turns, found.p_values[0]) == ("", [], [], 1.0)


def test_the_sign_of_a_curve_is_the_sign_of_its_pattern() -> None:
    for repetition in range(2):
        values = noisy("F R F R", 30, 0.03, repetition)
        assert pattern(found_in(-values)) == pattern(found_in(values)).translate(str.maketrans("FR", "RF"))


# --- size, witnesses, probe blocks


def test_stretches_below_the_smallest_effect_go() -> None:
    values = noisy("F R F", 30, 0.003, 0)
    assert pattern(found_in(values, min_effect=0.05)) == "F R F"
    fewer = found_in(values, min_effect=0.45)
    assert pattern(fewer) != "F R F"
    assert any("is below 0.45" in why for why in fewer.lowered)
    assert pattern(found_in(values, min_effect=2)) == ""


def test_a_stretch_that_rests_on_one_checkpoint_goes_with_it() -> None:
    values = noisy("rise", 30, 0.01, 1)
    values[14] += 0.5
    found = found_in(values)
    assert (pattern(found), found.outliers) == ("R", [14])
    assert len(found.kept) == 29
    assert 14 not in found.kept


def test_at_most_a_tenth_of_the_checkpoints_go() -> None:
    values = noisy("rise", 30, 0.01, 1)
    values[[5, 10, 15, 20, 25]] += [0.7, -0.6, 0.8, -0.7, 0.6]
    found = found_in(values)
    assert len(found.outliers) <= 3
    assert len(found_in(values[:9]).outliers) == 0  # nine are needed, so none can be spared


def with_blocks(values: Floats, spread: Floats | float, seed: int = 0) -> Curve:
    """A curve with 16 delete-one-block values about it."""
    drawn = np.random.default_rng(seed).standard_normal((16, len(values))) * spread
    return make_curve(steps(len(values)), values, values + drawn - drawn.mean(axis=0))


def test_a_change_that_the_probe_cannot_confirm_goes() -> None:
    values = noisy("F R F", 30, 0.01, 0)
    late = np.where(np.arange(30) < 20, 0.001, 0.2)  # the last fall of 0.4 hangs on a few texts
    sure, unsure = (search(with_blocks(values, spread), Rules()) for spread in (0.001, late))
    assert pattern(sure) == "F R F"
    assert pattern(unsure) != "F R F"
    assert any("holds 0" in why for why in unsure.lowered)
    for change, estimate in zip(sure.changes, sure.probe or [], strict=True):
        assert estimate.low < change < estimate.high


def test_a_shift_that_all_checkpoints_share_is_no_doubt() -> None:
    """What a block does to every checkpoint alike leaves their differences as they are."""
    values = noisy("F R F", 30, 0.01, 0)
    level = np.random.default_rng(1).standard_normal((16, 1)).repeat(30, axis=1)
    found = search(make_curve(steps(30), values, values + level - level.mean(axis=0)), Rules())
    assert pattern(found) == "F R F"
    for change, estimate in zip(found.changes, found.probe or [], strict=True):
        assert estimate.std_error < 1e-9
        assert estimate.corrected == pytest.approx(change)


def test_the_interval_of_a_strictly_monotone_change_is_the_jackknife_of_its_ends() -> None:
    values = curve("F R", 21)
    drawn = with_blocks(values, 0.001)
    found = search(drawn, Rules())
    assert found.turns == [0, 4, 20]
    assert drawn.blocks is not None
    assert drawn.plug_in == pytest.approx(values)
    for number, (start, end) in enumerate([(0, 4), (4, 20)]):
        by_hand = jackknife(values[end] - values[start], drawn.blocks[:, end] - drawn.blocks[:, start])
        got = (found.probe or [])[number]
        assert (got.low, got.high) == pytest.approx((by_hand.low, by_hand.high), abs=1e-9)


def test_plug_in_values_come_back_from_the_corrected_ones() -> None:
    rng = np.random.default_rng(3)
    plug_in, blocks = rng.normal(size=12), rng.normal(size=(16, 12))
    corrected = 16 * plug_in - 15 * blocks.mean(axis=0)
    found = make_curve(steps(12), corrected, blocks)
    assert found.plug_in == pytest.approx(plug_in)
    again = make_curve(steps(12), plug_in, blocks, corrected=False)
    assert again.plug_in == pytest.approx(plug_in)
    for curve_of in (found, again):
        change = curve_of.change(2, 7)
        assert change is not None
        assert change.corrected == pytest.approx(corrected[7] - corrected[2])


def test_empty_blocks_do_not_count() -> None:
    values = noisy("F R F", 30, 0.01, 0)
    full = with_blocks(values, 0.01)
    assert full.blocks is not None
    gaps = np.insert(full.blocks, 3, np.nan, axis=0)
    assert search(make_curve(steps(30), values, gaps), Rules()).probe == search(full, Rules()).probe


# --- turning points


def test_intervals_of_turning_points_hold_the_truth_and_reach_a_checkpoint_to_each_side() -> None:
    held = []
    for repetition in range(12):
        found = found_in(noisy("F R F", 30, 0.03, repetition), max_segments=3, resamples=99)
        u = np.linspace(0, 1, 30)
        for turn, true in ((1, 0.2), (2, 0.65)):
            held.append(u[found.early[turn]] <= true <= u[found.late[turn]])
            assert found.early[turn] < found.turns[turn] < found.late[turn]
    assert np.mean(held) >= 0.9


def test_more_noise_makes_wider_intervals() -> None:
    def width(deviation: float) -> float:
        found = [found_in(noisy("F R F", 40, deviation, repetition), max_segments=3) for repetition in range(2)]
        return float(np.mean([one.late[1] - one.early[1] for one in found]))

    assert width(0.08) > width(0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 0},
        {"level": 1},
        {"min_effect": -0.1},
        {"max_segments": 0},
        {"min_size": 2},
        {"resamples": 0},
    ],
)
def test_rules_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Rules(**wrong)
