"""Out-of-chain fits against the same by brute force, and folds that let nothing through."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from limberlm.analysis.prediction.models import fit, leftovers
from limberlm.analysis.prediction.penalty import PENALTIES, best_penalty
from limberlm.analysis.prediction.splits import connected, groups, schemes, splits
from limberlm.analysis.prediction.table import complete
from tests.analysis.prediction.studies import M0, planted, tree


def by_hand(table: pd.DataFrame, numbers: list[str], held_out: str) -> tuple[float, float]:
    """R^2 out of chain, and the sum of squares it is of: a fit by lstsq for every group, dummies by pandas."""
    factors = [name for name in ("family", "stage_index") if name != held_out]
    dummies = pd.get_dummies(table[factors].astype(str), drop_first=True).to_numpy(float)
    design = np.column_stack([np.ones(len(table)), table[numbers], dummies])
    y, missed, total = table["y"].to_numpy(), 0.0, 0.0
    for _, rows in table.groupby(held_out):
        test = table.index.isin(rows.index)
        slopes = np.linalg.lstsq(design[~test], y[~test], rcond=None)[0]
        missed += float(((y[test] - design[test] @ slopes) ** 2).sum())
        total += float(((y[test] - y[~test].mean()) ** 2).sum())
    return 1 - missed / total, total


@pytest.mark.parametrize("scheme", ["chain", "ordering", "family"])
def test_gains_are_those_of_fits_made_one_by_one(scheme: str) -> None:
    table = planted(0.5, 3)
    model = fit(complete(table), M0, scheme)  # type: ignore[arg-type]
    without, _ = by_hand(table, [*M0], scheme)
    added, _ = by_hand(table, [*M0, "g"], scheme)
    assert 1 - model.base() / model.total() == pytest.approx(without)
    assert model.gain(table["g"].to_numpy()[:, None, None])[0] == pytest.approx(added - without)


def test_several_columns_are_added_at_once() -> None:
    table, rng = planted(0.5, 4), np.random.default_rng(0)
    more = [f"x{i}" for i in range(5)]
    table[more] = rng.normal(size=(len(table), 5))
    model = fit(complete(table), M0)
    added = by_hand(table, [*M0, "g", *more], "chain")[0] - by_hand(table, [*M0], "chain")[0]
    assert model.gain(table[["g", *more]].to_numpy()[:, None, :])[0] == pytest.approx(added)


def test_a_permuted_column_among_many_is_the_same_column_alone() -> None:
    table = complete(planted(0.5, 5))
    model, g = fit(table, M0), table["g"].to_numpy()
    orders = np.array([np.random.default_rng(i).permutation(len(g)) for i in range(7)])
    alone = [model.gain(g[order][:, None, None])[0] for order in orders]
    assert model.gain(g[orders.T][:, :, None]) == pytest.approx(alone)


def test_a_column_that_the_covariates_span_adds_nothing() -> None:
    table = complete(planted(0.5, 5))
    model = fit(table, M0)
    spanned = (2 * table["kl_to_base"] - table["score_before"] + table["stage_index"] ** 2).to_numpy()
    assert model.gain(spanned[:, None, None])[0] == pytest.approx(0, abs=1e-9)
    assert abs(leftovers(table, M0, spanned[:, None])).max() < 1e-9


def test_ridge_is_the_penalised_fit() -> None:
    table = complete(planted(0.5, 6))
    model, g = fit(table, M0, ridge=True), table["g"].to_numpy(float)
    fold = model.folds[0]
    train = np.setdiff1d(np.arange(len(table)), fold.out)
    numbers = table[[*M0]].to_numpy(float)
    dummies = pd.get_dummies(table[["family", "stage_index"]].astype(str), drop_first=True).to_numpy(float)
    design = np.column_stack([numbers, dummies, g])
    design = (design - design[train].mean(0)) / design[train].std(0)
    y = table["y"].to_numpy() / table["y"].std(ddof=0)
    own = y - y[train].mean()
    x, bound = design[train], fold.penalty * len(train)
    slopes = np.linalg.solve(x.T @ x + bound * np.eye(x.shape[1]), x.T @ own[train])
    (_, errors), *_ = model.errors(g[:, None, None])
    assert fold.penalty in PENALTIES
    assert errors[:, 0] == pytest.approx(own[fold.test] - design[fold.test] @ slopes)


def test_the_penalty_grows_with_the_noise() -> None:
    rng = np.random.default_rng(0)
    x, groups_of = rng.normal(size=(60, 20)), np.arange(60) // 3
    x -= x.mean(0)
    clear, noise = x @ rng.normal(size=20), rng.normal(size=60)
    assert best_penalty(x, clear - clear.mean(), groups_of) < best_penalty(x, noise - noise.mean(), groups_of)


def test_a_held_out_chain_takes_every_checkpoint_on_its_path_out_of_training() -> None:
    table = complete(tree(0, tasks=2))
    for scheme in schemes(table):
        for split in splits(table, scheme):
            nodes = {table["node"][row] for row in split.test}
            assert not nodes & {table["node"][row] for row in split.train}
    assert schemes(table) == ["chain", "ordering", "arm"]
    assert [len(groups(table, scheme)) for scheme in schemes(table)] == [72, 6, 4]


def test_a_row_counts_once_however_many_chains_share_it() -> None:
    table = complete(tree(0))
    model = fit(table, [])
    weight = np.zeros(len(table))
    for fold in model.folds:
        np.add.at(weight, fold.test, fold.weight)
    assert weight == pytest.approx(1)
    assert len(table) == 4 * 3 * (1 + 3 + 6 + 6)


def test_a_level_that_no_training_row_has_is_not_tested() -> None:
    table = complete(tree(0))
    model = fit(table, [], "ordering")  # every ordering goes through the first stage
    assert model.rows - model.tested == (table["stage"] == "sft").sum()


def test_chains_that_share_a_checkpoint_are_drawn_together() -> None:
    table = complete(tree(0))
    assert table["set"].nunique() == 12
    assert set(connected(table["touches"]).values()) == set(range(12))
    assert complete(planted(0, 0))["set"].nunique() == 36


def leaky(table: pd.DataFrame) -> pd.DataFrame:
    """Every chain with its own copy of what it shares."""
    copied = table.explode("chains")
    alone = [(key,) for key in copied["chains"]]
    return complete(copied.drop(columns=["set", "touches"]).assign(chains=alone, touches=alone))


def test_copies_of_shared_checkpoints_would_hide_what_noise_costs() -> None:
    kept, removed, names = [], [], [f"n{i}" for i in range(12)]
    for seed in range(10):
        table = complete(tree(seed, sd=0.1, arms=2))
        table[names] = np.random.default_rng(seed).normal(size=(len(table), 12))
        for into, made in ((kept, leaky(table)), (removed, table)):
            into.append(fit(made, []).gain(made[names].to_numpy()[:, None, :])[0])
    assert np.mean(removed) < -0.1
    assert np.mean(kept) > np.mean(removed) + 0.1


def test_twelve_noise_metrics_cost_skill_in_chains_not_seen() -> None:
    found = []
    for seed in range(40):
        table, rng = complete(planted(0, seed)), np.random.default_rng(seed)
        found.append(fit(table, M0).gain(rng.normal(size=(len(table), 1, 12)))[0])
    assert np.mean(found) == pytest.approx(-0.07, abs=0.02)
