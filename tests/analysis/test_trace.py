"""The phases of a table of geometries are those of the numbers in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from limberlm.analysis import find_phases, trace_phases
from limberlm.errors import UserError
from tests.analysis.curves import noisy, steps

N = 30


def rows(metric: str, values: Any, replicates: Any, *, site: str = "final_norm") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "site": site,
            "convention": "last",
            "metric": metric,
            "value": values,
            "replicates": list(np.asarray(replicates).T),
            "stage": "pretraining",
            "step": np.round(steps(N) * 10).astype(int),
            "tokens": np.round(steps(N) * 10).astype(int) * 2048,
        }
    )


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """ln effective rank, alpha and ln head-removed rank with blocks about them, as the tables hold them."""
    rng = np.random.default_rng(0)
    rank, alpha = noisy("F R F", N, 0.02, 0), 5 - noisy("F R F", N, 0.02, 1)
    behind = noisy("F R", N, 0.02, 2)
    blocks = {name: own + 0.002 * rng.standard_normal((16, N)) for name, own in (("rank", rank), ("behind", behind))}
    blocks["alpha"] = alpha + 0.002 * rng.standard_normal((16, N))
    return {"rank": rank, "alpha": alpha, "behind": behind, "blocks": blocks}


@pytest.fixture(scope="module")
def table(made: dict[str, Any]) -> pd.DataFrame:
    blocks = made["blocks"]
    parts = [
        rows("effective_rank_corrected", np.exp(made["rank"]), blocks["rank"]),
        rows("effective_rank", np.exp(made["rank"] - 1), blocks["rank"]),
        rows("effective_rank_corrected", np.exp(-made["rank"]), blocks["rank"], site="block.3"),
        rows("alpha_req", made["alpha"], blocks["alpha"]),
        rows("head_removed_rank_8_corrected", np.exp(made["behind"]), blocks["behind"]),
    ]
    return pd.concat(parts).sample(frac=1, random_state=0)  # in any order


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_a_table_gives_what_its_numbers_give(table: pd.DataFrame, made: dict[str, Any], x: Any) -> None:
    scale = 2048 if x == "tokens" else 1
    found = trace_phases(table, x=x, stage="pretraining", warmup_end=30 * scale, resamples=39)
    by_hand = find_phases(
        np.round(steps(N) * 10) * scale,
        made["rank"],
        made["blocks"]["rank"],
        alpha=made["alpha"],
        alpha_blocks=made["blocks"]["alpha"],
        head_removed=made["behind"],
        head_removed_blocks=made["blocks"]["behind"],
        warmup_end=30 * scale,
        resamples=39,
        unit=x,
    )
    assert found.verdict == by_hand.verdict
    assert found.pattern == by_hand.pattern == "F R F"
    assert found.swings[1].low == pytest.approx(by_hand.swings[1].low)
    assert [swing.alpha_agrees for swing in found.swings] == [swing.alpha_agrees for swing in by_hand.swings]
    assert [swing.head_only for swing in found.swings] == [swing.head_only for swing in by_hand.swings]
    assert found.swings[-1].head_only


def test_what_some_checkpoints_lack_goes_unread(table: pd.DataFrame) -> None:
    alpha = table["metric"] == "alpha_req"
    short = table[~alpha | (table["step"] > 20)]
    undefined = table.assign(value=table["value"].where(~alpha | (table["step"] > 20)))
    for part in (short, undefined, table[~alpha]):
        assert {swing.alpha for swing in trace_phases(part, resamples=39).swings} == {None}


def test_without_blocks_changes_have_no_interval(table: pd.DataFrame) -> None:
    none = table.assign(replicates=[[float("nan")] * 16] * len(table))
    found = trace_phases(none, resamples=39)
    assert found.pattern == "F R F"
    assert np.isnan([swing.low for swing in found.swings]).all()


def test_a_table_without_the_rank_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="no effective_rank_corrected at final_norm, rms"):
        trace_phases(table, convention="rms")
    with pytest.raises(UserError, match="stage sft"):
        trace_phases(table, stage="sft")
    undefined = table.assign(value=table["value"].where(table["step"] > 10))
    with pytest.raises(UserError, match="values: nan at step 10"):
        trace_phases(undefined)


def test_two_stages_at_once_are_refused(table: pd.DataFrame) -> None:
    with pytest.raises(UserError, match="10 comes after 10"):
        trace_phases(pd.concat([table, table.assign(stage="sft")]))
