"""What an exchange of trajectories keeps and what it breaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limberlm.analysis.prediction.permutation import exchange, p_value, relabellings
from limberlm.analysis.prediction.table import complete
from tests.analysis.prediction.studies import chains, planted, tree


def test_the_design_sends_an_arm_a_seed_and_a_beginning_to_one_other_everywhere() -> None:
    table = complete(tree(0, tasks=2))
    how = exchange(table, 50, seed=1)
    assert (how.kind, how.arrangements, len(how.orders)) == ("design", 24 * 6 * 6, 50)
    for order in how.orders:
        given = table.loc[order].reset_index(drop=True)
        for name in ("arm", "seed", "prefix"):
            assert pd.concat([table[name], given[name]], axis=1).drop_duplicates().iloc[:, 0].is_unique
        assert (given["task"] == table["task"]).all()
        assert (given["stage_index"] == table["stage_index"]).all()
        parents = zip(table["prefix"], given["prefix"], strict=True)
        to = dict(parents)
        assert all(to[prefix[:-1]] == new[:-1] for prefix, new in to.items() if len(prefix) > 1)


def test_few_arrangements_are_all_looked_at_once() -> None:
    how = exchange(complete(planted(0, 0)), 999)
    assert how.arrangements == 24 * 6
    assert len({tuple(order) for order in how.orders}) == len(how.orders) == 143
    assert not (how.orders == np.arange(144)).all(1).any()
    assert how.smallest == pytest.approx(1 / 144)


def test_trajectories_stay_whole_and_in_their_family() -> None:
    table = complete(planted(0, 0))
    for order in exchange(table, 20, kind="trajectories").orders:
        given = table.loc[order].reset_index(drop=True)
        assert (given[["family", "stage_index"]] == table[["family", "stage_index"]]).all(axis=None)
        assert pd.concat([table["chain"], given["chain"]], axis=1).drop_duplicates().iloc[:, 0].is_unique


def test_chains_of_unequal_length_are_exchanged_with_their_like() -> None:
    table = chains(8, 4, 0)
    table = complete(table[~((table["chain"] == "c0") & (table["stage_index"] == 3))])
    how = exchange(table, 20)
    assert how.kind == "trajectories"
    assert "unequal length" in how.reasons[0]
    own = np.flatnonzero(table["chain"] == "c0")
    assert (how.orders[:, own] == own).all()


def test_rows_are_the_last_resort_and_say_so() -> None:
    how = exchange(complete(tree(0, arms=1, seeds=2)), 20)
    assert how.kind == "rows"
    assert not how.honest
    assert "12 arrangements only" in how.reasons[0]
    assert "share checkpoints" in how.reasons[1]
    table = complete(tree(0, arms=1, seeds=2))
    assert (table["stage_index"].to_numpy()[how.orders] == table["stage_index"].to_numpy()).all()


def test_of_an_unfinished_design_the_complete_part_is_exchanged() -> None:
    table = complete(tree(0))
    half = table[(table["seed"] < 2) | (table["arm"] == "a0")].reset_index(drop=True)
    how = exchange(half, 20)
    assert how.kind == "design"
    assert set(half.loc[how.rows, "seed"]) == {0, 1}
    assert how.arrangements == 24 * 2 * 6


def test_shared_checkpoints_cannot_be_exchanged_chain_by_chain() -> None:
    with pytest.raises(ValueError, match="share checkpoints"):
        exchange(complete(tree(0)), 20, kind="trajectories")


def test_a_latin_square_is_turned_into_itself_by_few_renamings() -> None:
    square = [
        ("s", "a", "b", "d", "c"),
        ("s", "b", "c", "a", "d"),
        ("s", "c", "d", "b", "a"),
        ("s", "d", "a", "c", "b"),
    ]
    found = relabellings(square)
    assert found[0] == {name: name for name in "sabcd"}
    assert all({tuple(names[n] for n in order) for order in square} == set(square) for names in found)
    assert len(found) == 4


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.floats(-1, 1))
def test_a_p_value_counts_the_observed_arrangement(drawn: list[float], observed: float) -> None:
    p = p_value(observed, np.array(drawn))
    assert 1 / (1 + len(drawn)) <= p <= 1
    assert p == pytest.approx((1 + sum(d >= observed - 1e-12 * (1 + abs(observed)) for d in drawn)) / (1 + len(drawn)))
