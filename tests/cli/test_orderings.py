"""What `limber analyze` tells of orderings."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from limberlm.cli.orderings import ordering_json, print_orderings


def ends(orders: list[str], seeds: int = 3, arms: tuple[str, ...] = ("none",)) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for name in orders:
        for seed in range(seeds):
            for arm in arms:
                row = {
                    what: rng.normal() + 30 * (name == orders[0]) for what in ("future_loss", "taught_loss", "ood_loss")
                }
                rows.append({"ordering": name, "seed": seed, "arm": arm, "tasks": tuple(name.split(" > ")), **row})
    return pd.DataFrame(rows)


ALL = [" > ".join(each) for each in permutations("abc")]


def test_each_quantity_of_one_arm_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    print_orderings(ends(ALL, arms=("none", "replay")), "none", full=False)
    shown = capsys.readouterr().out
    assert shown.count("difference found") == 6
    assert "6 orderings in 3 seeds; a seed is one repetition, whatever its arms." in shown
    assert "a stage one place later" not in shown


def test_which_part_of_an_order_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_orderings(ends(ALL[:3]), "none", full=True)
    shown = capsys.readouterr().out
    for what in ("a stage one place later", "directly after another", "the first then the second", "descriptive"):
        assert what in shown
    assert "rest differs" in shown or "100%" in shown


def test_one_ordering_is_not_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    print_orderings(ends(ALL[:1]), "none", full=True)
    assert capsys.readouterr().out == ""
    assert ordering_json(ends(ALL[:1]), "none") == {}


def test_a_run_without_a_whole_seed_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    table = ends(ALL, seeds=1)
    table.loc[3, ["future_loss", "taught_loss", "ood_loss"]] = np.nan
    print_orderings(table, "none", full=False)
    assert "no seed has all of its chains yet" in capsys.readouterr().out
