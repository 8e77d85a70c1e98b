"""Arms against none: pairing, intervals, verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from limberlm.analysis.arms import KEPT, NAMES, arms_table, fieller, paired, wear
from limberlm.errors import UserError


def chains(effects: dict[str, dict[str, float]], pairs: int = 9, noise: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """Ends of chains: three orderings and their seeds under every arm, its effects on top of what the pair shares."""
    rng = np.random.default_rng(seed)
    rows = []
    for pair in range(pairs):
        shared = {name: rng.uniform(2, 3) for name in [*NAMES, "target_gain"]}
        for arm, moved in {"none": {}, **effects}.items():
            values = {name: value + moved.get(name, 0) + noise * rng.normal() for name, value in shared.items()}
            rows.append({"arm": arm, "ordering": f"o{pair % 3}", "seed": pair // 3, **values})
    return pd.DataFrame(rows)


def test_an_effect_is_students_paired_one_over_ordering_and_seed() -> None:
    ends = chains({"a": {"future_loss": -0.5}, "b": {}})
    table = arms_table(ends.sample(frac=1, random_state=1)).set_index(["arm", "quantity"])
    wide = ends.pivot(index=["ordering", "seed"], columns="arm", values="future_loss")
    oracle = ttest_rel(wide["a"], wide["none"])
    row = table.loc[("a", "future_loss")]
    assert row["p"] == pytest.approx(oracle.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(oracle.confidence_interval()))
    assert row["verdict"] == "helps"
    assert row["pairs"] == 9


def test_geometry_is_compared_in_per_cent() -> None:
    ends = chains({"a": {}}, noise=0)
    ends.loc[ends["arm"] == "a", "effective_rank"] *= 1.02
    row = arms_table(ends).set_index("quantity").loc["effective_rank"]
    assert row["effect"] == pytest.approx(100 * np.log(1.02))


def test_p_values_are_adjusted_over_the_arms_of_a_quantity() -> None:
    table = arms_table(chains({name: {"target_loss": 0.05 * place} for place, name in enumerate("abcd")}))
    for _, rows in table.groupby("quantity"):
        assert rows["p_adjusted"].to_numpy() == pytest.approx(multipletests(rows["p"], method="holm")[1])


def test_lower_losses_help_and_higher_ones_harm() -> None:
    table = arms_table(chains({"a": {"target_loss": 1.0, "target_accuracy": 1.0, "target_gain": -1.0}}))
    verdicts = table.set_index("quantity")["verdict"]
    assert verdicts[["target_loss", "target_accuracy", KEPT, "prose_loss"]].tolist() == [
        "harms",
        "helps",
        "harms",
        "no difference found",
    ]


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=9))
def test_those_agree_that_have_the_sign_of_their_mean(differences: list[float]) -> None:
    found = paired(np.array(differences))
    assert found["agree"] == sum(
        (difference > 0) == (found["effect"] > 0) for difference in differences if found["effect"]
    )


def test_what_none_did_to_the_base_is_paired_with_the_base_of_the_same_tasks() -> None:
    ends = chains({"a": {"prose_loss": 5.0}})
    bases = ends[NAMES] - np.random.default_rng(1).normal(0.3, 0.1, size=(len(ends), 1))
    ends = ends.join(bases.add_prefix("base_"))
    plain, row = ends[ends["arm"] == "none"], wear(ends).set_index("quantity").loc["prose_loss"]
    oracle = ttest_rel(plain["prose_loss"], plain["base_prose_loss"])
    assert (row["low"], row["high"]) == pytest.approx(tuple(oracle.confidence_interval()))
    assert row["effect"] == pytest.approx(0.3, abs=0.1)


def test_the_three_ways_come_first() -> None:
    table = arms_table(chains({"a": {}, "b": {}}))
    assert list(dict.fromkeys(table["quantity"]))[:3] == ["effective_rank", KEPT, "future_loss"]


@pytest.mark.parametrize("n", [3, 6, 9, 18])
def test_the_detectable_effect_is_found_four_times_in_five(n: int) -> None:
    differences = np.random.default_rng(n).normal(size=n)
    found = paired(differences)
    power = TTestPower().power(found["detectable"] / differences.std(ddof=1), n, 0.05)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_fiellers_interval_holds_the_ratio_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        shared = rng.normal(size=9)
        top, bottom = 1.6 + 0.3 * shared + 0.3 * rng.normal(size=9), 2 + 0.3 * shared + 0.3 * rng.normal(size=9)
        _, low, high = fieller(top, bottom)
        held.append(low <= 0.8 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_a_ratio_does_not_depend_on_the_unit(seed: int, unit: float) -> None:
    top, bottom = np.random.default_rng(seed).normal(3, 0.3, size=(2, 9))
    assert fieller(unit * top, unit * bottom) == pytest.approx(fieller(top, bottom), rel=1e-6)


def test_no_share_is_told_of_a_gain_that_may_be_none() -> None:
    bottom = np.array([1.0, -1.0, 0.5, -0.4])
    assert np.isnan(fieller(np.ones(4), bottom)[0])
    assert np.isnan(arms_table(chains({"a": {}}, pairs=1))["low"]).all()


def test_a_study_without_arms_to_compare_is_refused() -> None:
    ends = chains({"a": {}})
    with pytest.raises(UserError, match='no chain of arm "none"'):
        arms_table(ends[ends["arm"] == "a"])
    with pytest.raises(UserError, match="one arm only"):
        arms_table(ends[ends["arm"] == "none"])
