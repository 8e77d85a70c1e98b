"""Arms that move geometry, KL, both or neither, and what may be said of the way."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from limberlm.analysis.mediation import CONFOUNDING, WITHOUT_GEOMETRY, WITHOUT_KL, Mediation, mediation_of
from limberlm.errors import UserError

GEOMETRY_ONLY = {"a": (0.1, 0.0), "b": (0.12, 0.0), "c": (0.08, 0.0)}
KL_ONLY = {"k": (0.0, -0.5)}


def ends(arms: dict[str, tuple[float, float]], *, b: float = -2.0, c: float = 0.0, target: float = 0.0) -> pd.DataFrame:
    """Ends of nine pairs: arms move log effective rank and KL, and the outcome follows them by b and c."""
    rng = np.random.default_rng(0)
    rows = []
    for pair in range(9):
        shared = rng.normal(0, 0.1)
        for arm, (geometry, kl) in {"none": (0.0, 0.0), **arms}.items():
            rank, away = -0.2 + geometry + rng.normal(0, 0.01), 1 + kl + rng.normal(0, 0.05)
            row = {"arm": arm, "ordering": f"o{pair % 3}", "seed": pair // 3}
            row |= {"effective_rank": 50 * np.exp(rank), "base_effective_rank": 50.0, "kl_to_base": away}
            row |= {"future_loss": 1 + shared + b * rank + c * away + rng.normal(0, 0.005), "base_future_loss": 1.0}
            taught = 0.5 + rng.normal(0, 0.01) + target * (arm != "none")
            rows.append(row | {"target_loss": taught, "target_gain": 1.0})
    return pd.DataFrame(rows)


def classes(found: Mediation) -> dict[str, str]:
    return dict(zip(found.table["arm"], found.table["class"], strict=True))


def test_an_outcome_that_follows_geometry_and_not_kl_is_consistent_with_mediation() -> None:
    found = mediation_of(ends(GEOMETRY_ONLY | KL_ONLY))
    assert classes(found) == dict.fromkeys(GEOMETRY_ONLY, WITHOUT_KL) | {"k": WITHOUT_GEOMETRY}
    assert found.conditions == {"i": True, "ii": True, "iii": True}
    assert any(text.startswith("Consistent with mediation") for text in found.words)
    assert found.words[-1].endswith(CONFOUNDING)


@pytest.mark.parametrize(
    ("table", "lacking"),
    [
        pytest.param(ends(GEOMETRY_ONLY), "iii", id="no arm moves KL alone"),
        pytest.param(ends({"a": (0.1, 0.0), **KL_ONLY}), "iii", id="one kind of arm"),
        pytest.param(ends(GEOMETRY_ONLY | KL_ONLY).assign(kind="diversity"), "iii", id="three weights of one kind"),
        pytest.param(ends(GEOMETRY_ONLY | KL_ONLY, b=0.0), "ii", id="the outcome stays"),
        pytest.param(ends(GEOMETRY_ONLY | KL_ONLY, c=1.0), "iii", id="the outcome follows KL too"),
        pytest.param(ends(KL_ONLY), "i", id="the geometry stays"),
    ],
)
def test_nothing_is_said_of_mediation_where_a_condition_fails(table: pd.DataFrame, lacking: str) -> None:
    found = mediation_of(table)
    assert not found.conditions[lacking]
    assert not any("Consistent with mediation" in text for text in found.words)
    assert any(text.startswith("Nothing is said of mediation") for text in found.words)


def test_effects_are_paired_on_ordering_and_seed() -> None:
    table = ends({"a": (0.1, 0.0)})
    row = mediation_of(table.sample(frac=1, random_state=0)).table.iloc[0]
    wide = table.pivot(index=["ordering", "seed"], columns="arm", values="kl_to_base")
    oracle = ttest_rel(wide["a"], wide["none"])
    assert (row["kl_to_base_low"], row["kl_to_base_high"]) == pytest.approx(tuple(oracle.confidence_interval()))
    assert row["pairs"] == 9
    assert row["effective_rank"] == pytest.approx(10, abs=1)


def test_arms_of_unequal_target_are_told() -> None:
    assert mediation_of(ends({"a": (0.1, 0.0)})).table["matched"].item()
    found = mediation_of(ends({"a": (0.1, 0.0)}, target=0.5))
    assert not found.table["matched"].item()
    assert any("unequal targets" in text for text in found.words)


def test_the_indirect_effect_is_that_of_the_geometry_inside_arms() -> None:
    row = mediation_of(ends({"a": (0.1, 0.0), "b": (0.12, 0.0)})).table.iloc[0]
    assert row["indirect"] == pytest.approx(-0.2, abs=0.06)
    assert row["indirect_low"] < -0.1
    assert row["indirect_high"] < 0
    nothing = mediation_of(ends({"a": (0.1, 0.0), "b": (0.12, 0.0)}, b=0.0)).table.iloc[0]
    assert nothing["indirect_low"] < 0 < nothing["indirect_high"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (ends(KL_ONLY).drop(columns="kl_to_base"), "against_base"),
        (ends({}), "an arm beside"),
        (ends(KL_ONLY).replace({"none": "plain"}), "an arm beside"),
        (ends(KL_ONLY).assign(ordering=lambda t: t["arm"]), "ordering and seed"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(table: pd.DataFrame, told: str) -> None:
    with pytest.raises(UserError, match=told):
        mediation_of(table)
