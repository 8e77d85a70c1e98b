"""Planted studies recovered: nothing, geometry, a rival, time; and what cannot be answered."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.regression.linear_model import OLS

from limberlm.analysis.plain import plain
from limberlm.analysis.prediction import prediction_of
from limberlm.analysis.prediction.mixed import mixed_table
from limberlm.analysis.prediction.prediction import Prediction
from limberlm.analysis.prediction.rivals import interval, winners
from limberlm.analysis.prediction.table import complete
from limberlm.errors import UserError
from tests.analysis.prediction.studies import chains, planted, tree


def asked(table: pd.DataFrame, permutations: int = 199) -> Prediction:
    return prediction_of(table, cells=["g"], permutations=permutations)


def headline(found: Prediction) -> pd.Series:
    table = found.table
    return table[(table["cell"] == "g") & (table["scheme"] == "chain")].iloc[0]


def test_geometry_that_predicts_is_found_and_beats_its_rivals() -> None:
    found = asked(planted(0.6, 0))
    assert headline(found)["delta"] > 0.05
    assert headline(found)["p_adjusted"] < 0.05
    assert headline(found)["low"] > 0
    assert found.verdict[0].startswith("g adds to the prediction of the outcome")
    assert winners(found.rivals) == ["g"]
    assert "beats the best rival, kl_to_base" in found.verdict[1]
    assert found.power["chains_needed"].iloc[0] < 36


def test_geometry_that_predicts_nothing_is_called_nothing() -> None:
    found = asked(planted(0, 1))
    assert headline(found)["delta"] < 0.01
    assert found.verdict[0] == (
        "No registered metric adds to the prediction of the outcome: no skill beyond the covariates in chains not seen."
    )
    assert winners(found.rivals) == []
    assert "36 chains could have seen a correlation of 0.45" in found.verdict[-1]


def test_a_noisy_copy_of_a_rival_adds_nothing_beyond_it() -> None:
    found = asked(planted(0.8, 2, through="kl"))
    rivals = found.rivals.set_index("name")
    assert rivals.loc["g", "delta"] > 0.05
    assert rivals.loc["kl_to_base", "delta"] > rivals.loc["g", "delta"]
    assert "no skill" in found.verdict[0]
    assert winners(found.rivals) == []


def test_what_only_drifts_with_the_outcome_adds_nothing() -> None:
    table = chains(20, 6, 3, trend=1.0)
    assert abs(table["g"].corr(table["y"])) > 0.7
    assert "no skill" in asked(table).verdict[0]


def test_a_tree_with_a_true_effect_is_told_with_its_units() -> None:
    found = asked(tree(1, 0.8, sd=0.3))
    assert found.verdict[0].startswith("g adds")
    counts = {"families": 1, "orderings": 6, "arms": 4, "seeds": 3, "chains": 72, "sets": 12, "nodes": 192, "rows": 192}
    assert found.units == counts | {"missing": {}}
    assert found.exchange["arrangements"] == 864
    assert set(found.table["scheme"]) == {"chain", "ordering", "arm"}
    assert "12 sets that share no checkpoint" in found.verdict[-1]


def test_exploratory_cells_are_adjusted_by_the_largest_of_all() -> None:
    table, rng = planted(0.6, 0), np.random.default_rng(0)
    table[[f"n{i}" for i in range(10)]] = rng.normal(size=(len(table), 10))
    found = asked(table).table
    others = found[~found["registered"] & (found["scheme"] == "chain")]
    assert len(others) == 10
    assert (others["p_adjusted"] >= others["p"]).all()
    table["copy"] = table["g"] + 0.1 * rng.normal(size=len(table))
    found = asked(table).table.set_index(["cell", "scheme"])
    assert found.loc[("copy", "chain"), "p_adjusted"] < 0.05


def test_several_registered_cells_are_tried_together_and_held_apart() -> None:
    table = planted(0.6, 0)
    table["h"] = np.random.default_rng(1).normal(size=len(table))
    found = prediction_of(table, cells=["g", "h"], permutations=199).table
    own = found[(found["scheme"] == "chain") & found["registered"]].set_index("cell")
    assert own.loc["g", "p_adjusted"] == pytest.approx(2 * own.loc["g", "p"])
    assert "all registered" in set(found["cell"])


def test_what_is_missing_is_counted_and_the_rest_is_answered() -> None:
    table = planted(0.6, 0)
    table.loc[:3, "kl_to_base"] = np.nan
    table.loc[140:, "y"] = np.nan
    table.loc[table["stage_index"] == 0, "h"] = np.nan
    table.loc[table["stage_index"] > 0, "h"] = np.random.default_rng(0).normal(size=108)
    found = prediction_of(table, cells=["g", "h", "cka"], permutations=99)
    assert found.units["missing"] == {"y": 4, "kl_to_base": 4}
    assert found.units["rows"] == 136
    rows = found.table[found.table["scheme"] == "chain"].set_index("cell")["rows"]
    assert rows["h"] == 136 - 34
    assert any("not measured: cka" in reason for reason in found.reasons)
    assert any("readiness" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(chains(1, 6, 0), id="one chain"),
        pytest.param(chains(6, 4, 0).assign(y=1.0), id="the same outcome everywhere"),
        pytest.param(chains(6, 4, 0).assign(y=np.nan), id="no outcome"),
        pytest.param(chains(4, 3, 0).assign(stage=list("abcdefghijkl")), id="no stage seen twice"),
    ],
)
def test_what_cannot_be_answered_says_so(table: pd.DataFrame) -> None:
    found = asked(table)
    assert "cannot be answered" in found.verdict[0]
    assert found.reasons
    assert not len(found.table)


def test_one_task_of_which_nothing_varies_is_left_out() -> None:
    table = pd.concat([planted(0.6, 0).assign(task="a"), planted(0.6, 0).assign(task="b", y=0.5)])
    found = asked(table)
    assert found.units["missing"] == {"varying outcome": 144}
    assert any("the same everywhere on b" in reason for reason in found.reasons)


def test_more_covariates_than_rows_are_shrunk_and_told() -> None:
    table, rng = chains(4, 3, 0), np.random.default_rng(0)
    table[["score_before", "loss_before", "prose_loss", "tokens"]] = rng.normal(size=(12, 4))
    assert any("shrunk" in reason for reason in asked(table).reasons)


def test_few_sets_of_chains_have_no_interval() -> None:
    found = asked(tree(0, arms=1, seeds=2))
    assert np.isnan(headline(found)["low"])
    assert any("no interval" in reason for reason in found.reasons)
    assert found.exchange["anti_conservative"]
    assert "rejects too often" in " ".join(found.verdict)


def test_an_interval_is_over_sets_of_chains() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(1, 1, 400)
    low, high = interval(gains, np.ones(400))
    half = 1.96 * gains.std() / 20
    assert (low, high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.03)
    assert np.isnan(interval(gains[:4], np.ones(4))[0])


def test_the_same_seed_gives_the_same_answer() -> None:
    one, other = (asked(planted(0.3, 0), 50) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, other.table)
    assert json.dumps(plain(one.as_dict())) == json.dumps(plain(other.as_dict()))


def test_a_mixed_model_of_few_clusters_is_least_squares_with_dummies() -> None:
    table = complete(planted(0.5, 0))
    row = mixed_table(table, ["g"], ["kl_to_base", "score_before"]).iloc[0]
    assert row["model"] == "fixed ordering, fixed seed"
    scaled = table[["g", "kl_to_base", "score_before", "y"]].apply(lambda x: (x - x.mean()) / x.std(ddof=0))
    dummies = pd.get_dummies(table[["family", "stage_index", "ordering", "seed"]].astype(str), drop_first=True).astype(
        float
    )
    oracle = OLS(scaled["y"], scaled.drop(columns="y").join(dummies).assign(one=1.0)).fit()
    assert row["slope"] == pytest.approx(oracle.params["g"])
    assert (row["high"] - row["low"]) / 3.92 == pytest.approx(oracle.bse["g"])


def test_a_mixed_model_that_so_few_rows_do_not_bear_has_no_slope() -> None:
    row = mixed_table(complete(tree(0, 0.8, sd=0.3)).drop_duplicates("prefix").head(5), ["g"], []).iloc[0]
    assert math.isnan(row["slope"])
    assert not row["converged"]


def test_a_mixed_model_of_many_orderings_has_random_ones() -> None:
    row = mixed_table(complete(tree(0, 0.8, sd=0.3)), ["g"], []).iloc[0]
    assert row["model"].startswith("random ordering")
    assert row["low"] < row["slope"] < row["high"]


def test_a_table_without_an_outcome_is_refused() -> None:
    with pytest.raises(UserError, match="needs the columns y"):
        prediction_of(pd.DataFrame({"chain": ["a"], "g": [1.0]}))
