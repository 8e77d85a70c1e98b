"""How often nothing is called something, and something found: the planted studies, many times over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from limberlm.analysis.prediction.gains import Asked, gains_table
from limberlm.analysis.prediction.models import fit
from limberlm.analysis.prediction.permutation import Kind, exchanged, p_value
from limberlm.analysis.prediction.table import complete
from tests.analysis.prediction.studies import M0, chains, planted, tree


def rejected(
    make: Callable[[int], pd.DataFrame], kind: Kind | None, draws: int, numbers: tuple[str, ...] = (), count: int = 199
) -> tuple[float, float]:
    """The share of p <= 0.05, and the mean gain."""
    asked = [Asked(("g",), (), numbers, count, seed, kind) for seed in range(draws)]
    found = [gains_table(complete(make(each.seed)), ["chain"], each).table.iloc[0] for each in asked]
    return float(np.mean([row["p"] <= 0.05 for row in found])), float(np.mean([row["delta"] for row in found]))


@pytest.mark.slow
@pytest.mark.parametrize(("b", "gain", "power"), [(0.6, 0.156, 1.0), (0.3, 0.040, 0.8)])
def test_a_planted_effect_is_found_as_often_as_it_should_be(b: float, gain: float, power: float) -> None:
    share, mean = rejected(lambda seed: planted(b, seed), "trajectories", 100, M0)
    assert mean == pytest.approx(gain, abs=0.02)
    assert share == pytest.approx(power, abs=0.1)  # of 100 draws


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is_among_independent_chains() -> None:
    share, mean = rejected(lambda seed: planted(0, seed), "trajectories", 400, M0)
    assert mean == pytest.approx(-0.004, abs=0.02)
    assert 0.03 <= share <= 0.07


@pytest.mark.slow
def test_nothing_is_found_in_a_tree_where_arms_seeds_and_stages_move_both_sides() -> None:
    share, _ = rejected(lambda seed: tree(seed), "design", 400)
    assert 0.03 <= share <= 0.07


@pytest.mark.slow
def test_rows_shuffled_inside_stages_find_much_that_is_not_there() -> None:
    assert rejected(lambda seed: tree(seed), "rows", 40)[0] > 0.2
    assert rejected(lambda seed: chains(18, 8, seed, effect=2), "rows", 150)[0] > 0.1


@pytest.mark.slow
def test_whole_trajectories_keep_the_level_where_chains_have_effects_on_both_sides() -> None:
    assert rejected(lambda seed: chains(18, 8, seed, effect=2), "trajectories", 150)[0] <= 0.08


def shuffled(table: pd.DataFrame, seed: int) -> float:
    """The p of a free shuffle of rows, with no covariate that knows of time."""
    table = complete(table).drop(columns="stage_index")
    model, g = fit(table, []), table["g"].to_numpy()[:, None]
    orders = np.array([np.random.default_rng([seed, draw]).permutation(len(table)) for draw in range(99)])
    drawn = np.concatenate([model.gain(part) for part in exchanged(g, orders)])
    return p_value(float(model.gain(g[:, None, :])[0]), drawn)


@pytest.mark.slow
def test_unrelated_series_that_both_drift_are_one_thing_to_a_free_shuffle_and_nothing_to_ours() -> None:
    made = [chains(18, 6, seed, trend=0.5) for seed in range(150)]
    assert np.mean([shuffled(table, seed) <= 0.05 for seed, table in enumerate(made[:60])]) > 0.5
    assert rejected(lambda seed: made[seed], "trajectories", 150)[0] <= 0.07
