from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from limberlm.outcomes.score_matrix import score_matrix
from limberlm.report.study import ReportData, render_report
from limberlm.report.study.overview import Overview, balance_tables, overview
from tests.report.synthetic import STAGES, build
from tests.report.test_html import opened


def of(data: ReportData) -> Overview:
    return overview(data)


def column(found: Overview, name: str) -> list:
    place = [measure.name for measure in found.measures].index(name)
    return [line.cells[place] for line in found.lines]


@pytest.fixture(scope="module")
def three() -> ReportData:
    return build((("b first", STAGES), ("a second", STAGES)), seeds=(0, 1, 2), metrics=("effective_rank",))


def test_a_row_per_chain_in_the_studys_own_order(three: ReportData) -> None:
    found = of(three)
    assert [line.ordering for line in found.lines] == ["b first", "a second"]
    assert [line.seeds for line in found.lines] == [((0, 0), (1, 1), (2, 2)), ((0, 3), (1, 4), (2, 5))]
    assert [line.finished for line in found.lines] == [3, 3]


def test_ranks_are_averaged_as_logarithms_with_students_interval_over_seeds(three: ReportData) -> None:
    ratios = [three.changes.get(f"sft-dpo-math-{seed}", "base").value for seed in range(3)]
    logs = np.log(ratios)
    low, high = np.exp(stats.t.interval(0.95, 2, loc=logs.mean(), scale=stats.sem(logs)))
    cell = column(of(three), "rank")[0]
    assert (cell.value, cell.low, cell.high) == pytest.approx((np.exp(logs.mean()), low, high), rel=1e-12)
    assert cell.remark == "n = 3"


def test_shares_are_averaged_as_they_are(three: ReportData) -> None:
    rows = three.outcomes
    at_end = rows[(rows["stage"] == "math") & rows["outcome"].isin(["accuracy", "pair_accuracy"])]
    outside = at_end[(at_end["split"] == "out_of_domain") & (at_end["chain"] == "b first")]
    assert column(of(three), "ood_accuracy")[0].value == pytest.approx(outside.groupby("seed")["value"].mean().mean())


def test_one_seed_has_no_interval_and_says_so(study: ReportData) -> None:
    cell = column(of(study), "rank")[0]
    assert cell.remark == "one seed"
    assert cell.interval == ""
    assert math.isnan(cell.low)


def test_what_was_measured_nowhere_has_no_column(three: ReportData) -> None:
    assert [measure.name for measure in of(three).measures] == ["rank", "acc", "ood_accuracy", "plasticity"]


def test_a_chain_that_is_not_finished_counts_in_no_mean(three: ReportData) -> None:
    lengths = {("b first", seed): 4 for seed in range(3)} | {("b first", 2): 5}
    data = dataclasses.replace(three, lengths=lengths)
    found = of(data)
    assert (found.lines[0].finished, found.lines[0].counts[0]) == (2, 2)
    ratios = [data.changes.get(f"sft-dpo-math-{seed}", "base").value for seed in (0, 1)]
    assert column(found, "rank")[0].value == pytest.approx(math.sqrt(ratios[0] * ratios[1]), rel=1e-12)
    text = opened(render_report(data))
    assert "2 of 3 finished" in text
    assert "This chain is not finished: 3 of 4 stages are there." in text


def test_acc_and_bwt_are_those_of_the_score_matrices(three: ReportData) -> None:
    rng = np.random.default_rng(0)
    tasks = ["instructions", "arithmetic"]
    matrices = {}
    rows = []
    for seed in range(3):
        scores = [{task: rng.integers(0, 2, 16).astype(float) for task in tasks} for _ in range(3)]
        matrices["b first", seed] = {"share": score_matrix(scores, tasks)}
        end = three.outcomes.query("chain == 'b first' and seed == @seed and stage == 'math' and outcome == 'accuracy'")
        for row in end.query("split == 'in_domain' and task in @tasks").to_dict("records"):
            rows.append(row | {"value": float(scores[-1][row["task"]].mean())})
    others = three.outcomes[~((three.outcomes["stage"] == "math") & (three.outcomes["outcome"] == "accuracy"))]
    data = dataclasses.replace(three, outcomes=pd.concat([others, pd.DataFrame(rows)]), matrices=matrices)
    found = of(data)
    expected = [each["share"] for each in matrices.values()]
    assert column(found, "acc")[0].value == pytest.approx(np.mean([each.acc.value for each in expected]), abs=1e-12)
    assert column(found, "bwt")[0].value == pytest.approx(np.mean([each.bwt.value for each in expected]), abs=1e-12)
    assert math.isnan(column(found, "bwt")[1].value)


def test_arms_are_told_apart(three: ReportData) -> None:
    geometry = three.geometry.assign(arm=np.where(three.geometry["chain"] == "a second", "slow", "none"))
    geometry["chain"] = geometry["chain"].replace({"a second": "b first [slow]"})
    data = ReportData("arms", geometry=geometry, comparisons=three.comparisons)
    assert [(line.ordering, line.arm) for line in of(data).lines] == [("b first", "none"), ("b first", "slow")]
    assert ">Arm</th>" in render_report(data)


def test_rows_are_said_not_to_be_tested(three: ReportData, study: ReportData) -> None:
    assert "Differences between rows are not tested here" in render_report(three)
    assert 'id="overview"' not in render_report(study), "one chain needs no overview"


def test_balance_tables_are_shown_as_planned(three: ReportData) -> None:
    balance = {
        "position": {"sft": [1, 1], "math": [1, 1]},
        "carry_over": {"sft": {"sft": 0, "math": 1}, "math": {"sft": 2, "math": 0}},
        "positions_balanced": True,
        "carry_over_balanced": False,
    }
    data = dataclasses.replace(three, balance=balance)
    tables = balance_tables(data)
    assert tables is not None
    assert tables["carry_over"] == [("sft", [0, 1]), ("math", [2, 0])]
    assert "places are balanced and what follows what is not balanced" in tables["sentence"]
    assert "How balanced the orderings are" in render_report(data)
    assert balance_tables(three) is None
