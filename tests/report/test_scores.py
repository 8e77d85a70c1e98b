from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from limberlm.outcomes.score_matrix import over_seeds, score_matrix
from limberlm.report.study import ReportData, figures
from limberlm.report.study.scores import score_tables

TASKS = ["a", "b", "c"]


def scores_of(seed: int, loss: bool = False) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [
        {task: rng.gamma(2.0, 1.0, 24) if loss else rng.integers(0, 2, 24).astype(float) for task in TASKS}
        for _ in range(4)
    ]


@pytest.fixture(scope="module")
def matrices():
    return {
        ("sft-dpo-math", seed): {
            "share": score_matrix(scores_of(seed), TASKS),
            "loss": score_matrix(scores_of(seed, loss=True), TASKS, kind="loss"),
        }
        for seed in (0, 1)
    }


def test_cells_are_the_quantities_of_the_matrix(many: ReportData, matrices) -> None:
    data = dataclasses.replace(many, matrices=matrices)
    runs = data.runs
    own = matrices["sft-dpo-math", 0]["share"]
    table = score_tables(data, runs[0], runs)[0]
    assert table.tasks == ("a", "b", "c")
    assert [line.title for line in table.lines] == ["ACC", "BWT", "Forgetting", "FWT"]
    for line, quantity in zip(table.lines, (own.acc, own.bwt, own.forgetting, own.fwt), strict=True):
        assert (line.items.value, line.items.low, line.items.high) == (quantity.value, quantity.low, quantity.high)
        for task, cell in zip(TASKS, line.tasks, strict=True):
            assert math.isnan(cell.value) if task not in quantity.tasks else cell.value == quantity.tasks[task]["value"]
    assert "bias about" in table.lines[2].items.remark


def test_seeds_have_students_interval(many: ReportData, matrices) -> None:
    data = dataclasses.replace(many, matrices=matrices)
    runs = data.runs
    expected = over_seeds([matrices["sft-dpo-math", seed]["share"] for seed in (0, 1)])["bwt"]
    table = score_tables(data, runs[0], runs)[0]
    cell = table.lines[1].seeds
    assert table.seeds == 2
    assert (cell.value, cell.low, cell.high, cell.remark) == (expected.mean, expected.low, expected.high, "n = 2")


def test_a_loss_is_shown_as_a_loss_and_its_changes_with_the_sign_turned(many: ReportData, matrices) -> None:
    data = dataclasses.replace(many, matrices=matrices)
    runs = data.runs
    table = score_tables(data, runs[0], runs)[1]
    end = np.mean([np.mean(scores_of(0, loss=True)[-1][task]) for task in TASKS])
    acc, bwt = table.lines[0].items, table.lines[1].items
    assert acc.value == pytest.approx(end, rel=1e-12)
    assert acc.low < acc.value < acc.high
    assert bwt.value == matrices["sft-dpo-math", 0]["loss"].bwt.value
    assert acc.text.endswith(" nats")


def test_a_run_without_matrices_has_no_table(many: ReportData, matrices) -> None:
    data = dataclasses.replace(many, matrices=matrices)
    runs = data.runs
    assert score_tables(data, runs[2], runs) == []


def test_the_task_that_a_stage_trained_stands_bold_in_the_heat_map(study: ReportData) -> None:
    figure = figures.accuracy_heatmap(study.outcomes, study.runs[0].stages, study.targets)
    assert figure is not None
    heatmap = figure.data[0]
    bold = {
        (task.partition("<br>")[0], stage)
        for task, row in zip(heatmap["y"], heatmap["text"], strict=True)
        for stage, text in zip(heatmap["x"], row, strict=True)
        if text.startswith("<b>")
    }
    assert bold == {("instructions", "sft"), ("preferences, pairs", "dpo"), ("arithmetic", "math")}
    assert [name.partition("<br>")[2] for name in heatmap["y"]] == ["in domain"] * 4 + ["out of domain"] * 3
