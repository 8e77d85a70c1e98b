"""What the order does: against statsmodels, brute force and planted truths; and what a design cannot tell."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import ttest_1samp, ttest_rel
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests

from limberlm.analysis.ordering import effects_of
from limberlm.analysis.ordering.effects import of_ends
from limberlm.errors import UserError
from limberlm.study.settings.orderings import OrderingSettings, expand

ALL = [" > ".join(("sft", *each, "dpo")) for each in permutations(("math", "code", "safety"))]
Effect = dict[str, float]


def study(
    orderings: list[str] = ALL,
    seeds: int = 3,
    arms: int = 1,
    order: Effect | None = None,
    noise: float = 1.0,
    at: int = 0,
) -> pd.DataFrame:
    """Chains with effects of seed, arm and order."""
    rng = np.random.default_rng(at)
    of_seed, of_arm = 3 * rng.normal(size=seeds), 2 * rng.normal(size=arms)
    rows = [
        {
            "ordering": name,
            "seed": seed,
            "arm": f"arm{arm}",
            "value": of_seed[seed] + of_arm[arm] + noise * rng.normal(),
        }
        for name in orderings
        for arm in range(arms)
        for seed in range(seeds)
    ]
    table = pd.DataFrame(rows)
    return table.assign(value=table["value"] + table["ordering"].map(order or {}).fillna(0.0))


def design(name: str, stages: str) -> list[str]:
    return [" > ".join(each) for each in expand(OrderingSettings(permute=tuple(stages), design=name))]


@pytest.mark.parametrize("arms", [1, 3])
def test_the_shares_are_statsmodels_sums_of_squares(arms: int) -> None:
    table = study(arms=arms, order={ALL[0]: 2.0})
    formula = "value ~ C(ordering) + C(seed)" + (" + C(arm)" if arms > 1 else "")
    oracle, found = anova_lm(smf.ols(formula, table).fit())["sum_sq"], effects_of(table).anova
    assert found.ss_ordering == pytest.approx(oracle["C(ordering)"])
    assert found.ss_seed == pytest.approx(oracle["C(seed)"])
    assert found.ss_arm == pytest.approx(oracle.get("C(arm)", 0.0), abs=1e-9)
    assert found.ss_residual == pytest.approx(oracle["Residual"])
    assert found.eta_squared == pytest.approx(oracle["C(ordering)"] / oracle.sum())
    assert found.seed_share == pytest.approx(oracle["C(seed)"] / oracle.sum())


def test_the_noise_and_the_detectable_distance_are_those_of_the_two_way_model() -> None:
    table = study(seeds=4)
    model, found = smf.ols("value ~ C(ordering) + C(seed)", table).fit(), effects_of(table).anova
    assert found.noise == pytest.approx(np.sqrt(model.mse_resid))
    rng, hits = np.random.default_rng(0), []
    means = np.array([-0.5, 0, 0, 0, 0, 0.5]) * found.detectable / found.noise
    for _ in range(1500):
        rows = rng.normal(size=(4, 6)) + means
        left = rows - rows.mean(axis=0) - rows.mean(axis=1, keepdims=True) + rows.mean()
        between = 4 * ((rows.mean(axis=0) - rows.mean()) ** 2).sum() / 5
        hits.append(between / ((left**2).sum() / 15) > 2.901)  # F(5, 15) at 5 %
    assert np.mean(hits) == pytest.approx(0.8, abs=0.035)


def test_one_strong_ordering_is_found_and_pure_noise_is_not() -> None:
    assert effects_of(study(order={ALL[2]: 9.0})).verdict == "difference found"
    assert effects_of(study(at=5)).verdict == "no difference found"


def test_three_orderings_in_two_seeds_are_refused_a_test() -> None:
    found = effects_of(study(ALL[:3], seeds=2, order={ALL[0]: 100.0}))
    assert (found.verdict, found.test) == ("cannot be tested", None)
    assert found.smallest_p == pytest.approx(1 / 6)
    assert "no p-value below 0.17 can be reached" in " ".join(found.reasons)


def test_copies_of_an_arm_are_no_evidence() -> None:
    """As many seeds as there are, whatever number of arms repeats them: 3 orderings in 2 seeds stay out of reach."""
    one = study(ALL[:3], seeds=2)
    copied = pd.concat([one.assign(arm=f"copy{number}") for number in range(8)])
    assert effects_of(copied).verdict == "cannot be tested"
    three, many = study(ALL[:3]), [study(ALL[:3]).assign(arm=name) for name in "abcdefgh"]
    assert effects_of(pd.concat(many)).test == effects_of(three).test


def test_a_place_counts_as_much_as_was_planted() -> None:
    """0.5 for every place that math stands later, nothing else: the others move as far as they must."""
    later = {name: 0.5 * name.split(" > ").index("math") for name in ALL}
    found = effects_of(study(order=later, noise=1e-6)).positions.set_index("stage")
    assert found.loc["math", "effect"] == pytest.approx(0.5, abs=1e-4)
    assert found.loc["code", "effect"] == pytest.approx(-0.25, abs=1e-4)
    assert set(found.index) == {"math", "code", "safety"}


def test_a_place_effect_is_the_slope_of_each_seed() -> None:
    table = study(seeds=4, at=2)
    places = table["ordering"].map(lambda name: name.split(" > ").index("code"))
    slopes = [np.polyfit(places[own.index], own["value"], 1)[0] for _, own in table.groupby("seed")]
    row, oracle = effects_of(table).positions.set_index("stage").loc["code"], ttest_1samp(slopes, 0)
    assert row["effect"] == pytest.approx(np.mean(slopes))
    assert row["p"] == pytest.approx(oracle.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(oracle.confidence_interval()))


def test_a_predecessor_is_with_minus_without() -> None:
    table = study(at=4)
    table["after"] = table["ordering"].str.contains("math > code")
    means = table.groupby(["seed", "after"])["value"].mean().unstack()
    differences = means[True] - means[False]
    rows = effects_of(table).predecessors.set_index(["stage", "after"])
    assert rows.loc[("code", "math"), "effect"] == pytest.approx(np.mean(differences))
    assert rows["p_adjusted"].to_numpy() == pytest.approx(multipletests(rows["p"], method="holm")[1])


def test_a_commutator_is_that_of_pairs_that_differ_in_two_neighbours_alone() -> None:
    table = study(at=6)
    wide = table.pivot(index="seed", columns="ordering", values="value")
    exchanged = [
        wide[f"sft > {before}math > code{after} > dpo"] - wide[f"sft > {before}code > math{after} > dpo"]
        for before, after in (("", " > safety"), ("safety > ", ""))
    ]
    by_hand = ttest_1samp(sum(exchanged) / 2, 0)
    row = effects_of(table).commutators.set_index(["first", "second"]).loc[("math", "code")]
    assert row["effect"] == pytest.approx(float(sum(each.mean() for each in exchanged)) / 2)
    assert row["p"] == pytest.approx(by_hand.pvalue)
    assert row["matched"] == 2


def test_a_square_of_three_says_what_it_cannot_tell() -> None:
    found = effects_of(study(design("latin_square", "abc")))
    told = " ".join(found.reasons)
    assert "never run, so nothing is known of: c after a, a after b, b after c" in told
    assert "each is wholly confounded with them" in told
    assert (found.commutators["matched"] == 0).all()
    assert len(found.predecessors) == 3


def test_all_orders_of_three_tell_place_and_predecessor_apart() -> None:
    found = effects_of(study())
    assert found.predecessors["confounded"].between(0.01, 0.99).all()
    assert not any("confounded" in reason or "never run" in reason for reason in found.reasons)


def test_williams_square_has_every_neighbour_and_yet_confounds_them_with_places() -> None:
    found = effects_of(study(design("latin_square", "abcd")))
    assert len(found.predecessors) == 12
    assert not any("never run" in reason for reason in found.reasons)
    assert (found.predecessors["confounded"] > 1 - 1e-9).all()


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = study(arms=2)
    shuffled = table.sample(frac=1, random_state=0)
    one, other = effects_of(table), effects_of(shuffled)
    assert one.anova.ss_ordering == pytest.approx(other.anova.ss_ordering)
    assert one.test is not None
    assert other.test is not None
    assert one.test.p == other.test.p


def test_two_orderings_are_a_paired_comparison() -> None:
    table = study(ALL[:2], seeds=5)
    found, wide = effects_of(table).anova, table.pivot(index="seed", columns="ordering", values="value")
    assert found.ss_ordering / (found.ss_residual / 4) == pytest.approx(
        ttest_rel(wide[ALL[0]], wide[ALL[1]]).statistic ** 2
    )


def test_a_seed_that_lacks_a_chain_is_left_out_and_counted() -> None:
    table = study().drop(index=4)
    table.loc[0, "value"] = np.nan
    found = effects_of(table)
    assert found.units == {"orderings": 6, "seeds": 1, "arms": 1, "chains": 6}
    assert [reason for reason in found.reasons if "left out" in reason] == [
        "seed 0 is left out: 1 of its 6 chains have no value",
        "seed 1 is left out: 1 of its 6 chains have no value",
    ]
    assert found.verdict == "cannot be tested"
    assert found.table["low"].isna().all()


def test_a_constant_outcome_is_told() -> None:
    found = effects_of(study().assign(value=1.0))
    assert found.verdict == "no difference found"
    assert "every chain has the same value" in found.reasons
    assert np.isnan(found.anova.eta_squared)
    json.dumps(found.as_dict(), allow_nan=False)


def ends(orderings: list[str], arms: list[str]) -> pd.DataFrame:
    table = pd.concat([study(orderings).assign(arm=arm) for arm in arms], ignore_index=True)
    tasks = table["ordering"].map(lambda name: tuple(name.split(" > ")))
    return table.rename(columns={"value": "future_loss"}).assign(tasks=tasks, target_loss=1.0, taught_loss=1.0)


def test_a_quantity_of_other_tasks_in_each_ordering_is_refused() -> None:
    with pytest.raises(UserError, match="taught_loss or future_loss"):
        of_ends(ends(design("all", "abc"), ["none"]), "target_loss")
    assert of_ends(ends(ALL, ["none"]), "target_loss").anova.ss_total == 0


def test_what_cannot_be_answered_is_one_line() -> None:
    table = ends(ALL, ["none", "replay"])
    with pytest.raises(UserError, match="did you mean"):
        of_ends(table, "future_los")
    with pytest.raises(UserError, match='no chain of arm "anchor", but of none, replay'):
        of_ends(table, arm="anchor")
    with pytest.raises(UserError, match="one ordering only"):
        effects_of(study(ALL[:1]))
    with pytest.raises(UserError, match="no seed has all of its chains yet"):
        effects_of(study().assign(value=np.nan))
    with pytest.raises(UserError, match="in the table twice"):
        effects_of(pd.concat([study(), study()]))
    assert of_ends(table, arm=None).units["arms"] == 2
