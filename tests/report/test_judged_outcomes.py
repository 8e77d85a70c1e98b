from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from limberlm.outcomes.calibration import ece, ece_null, reliability_table
from limberlm.report.packing import from_planes
from limberlm.report.study import ReportData, calibration, render_report
from limberlm.report.study.refusals import refusal_figure, refusal_lines
from limberlm.report.study.updates import overlap_heatmap, overlaps
from tests.report.controlled import STAGES, judged, place
from tests.report.test_html import block, page_data


@pytest.fixture(scope="module")
def data() -> ReportData:
    return judged()


def items(data: ReportData, name: str, stage: str, task: str) -> np.ndarray:
    rows = data.outcomes[(data.outcomes["outcome"] == name) & (data.outcomes["stage"] == stage)]
    return np.array(rows.loc[rows["task"] == task, "items"].iloc[0])


def test_the_diagrams_are_drawn_from_the_reliability_table_of_each_stage(data: ReportData) -> None:
    text = render_report(data)
    page = page_data(text)
    arrays = from_planes(block(text, "numbers"), page["arrays"])
    assert [stage[0] for stage in page["runs"][0]] == list(STAGES)
    for stage, _, node in page["runs"][0]:
        c, y = (items(data, f"{name}_next_token", stage, "programs") for name in ("confidence", "correct"))
        expected = reliability_table(c, y, 10)
        for name, number in page["reliability"][node]["next_token|programs"].items():
            assert arrays[number].tolist() == expected[name].astype("float32").tolist()


def test_an_ece_stands_beside_its_null_value(data: ReportData) -> None:
    (panel,) = [p for p in calibration.panels(data, data.runs[0]) if (p.source, p.task) == ("next_token", "programs")]
    names = [name for name, _, _ in calibration.COLUMNS]
    for stage, cells in panel.rows:
        c, y = (items(data, f"{name}_next_token", stage, "programs") for name in ("confidence", "correct"))
        assert cells[names.index("ece")].value == pytest.approx(ece(c, y, 10), rel=1e-12)
        assert cells[names.index("ece_null")].value == pytest.approx(ece_null(c, 10), rel=1e-12)
        assert cells[names.index("correct")].value == pytest.approx(y.mean())


def test_one_confidence_source_is_shown_at_a_time(data: ReportData) -> None:
    text = render_report(data)
    assert text.count('data-choice="source"') == 1
    assert 'data-when-source="next_token" hidden' in text
    assert 'data-when-source="choice_normalised" hidden' not in text
    assert 'data-figure="r0|reliability|next_token|programs"' in text


def test_a_model_that_diverged_has_no_diagram(data: ReportData) -> None:
    outcomes = data.outcomes.copy()
    gone = (outcomes["stage"] == "math") & outcomes["outcome"].str.startswith("confidence")
    outcomes.loc[gone, "items"] = pd.Series([[np.nan] * 200] * int(gone.sum()), index=outcomes.index[gone])
    broken = dataclasses.replace(data, outcomes=outcomes)
    page = page_data(render_report(broken))
    drawn = [stage for stage, _, node in page["runs"][0] if "next_token|programs" in page["reliability"].get(node, {})]
    assert drawn == ["base", "sft"]


def test_every_judge_is_shown_on_both_sides_and_splits(data: ReportData) -> None:
    run = data.runs[0]
    lines = refusal_lines(run, data.rows("outcomes", run.key))
    assert [(line.rate, line.split) for line in lines[:10]] == [(line.rate, "in domain") for line in lines[:10]]
    assert len(lines) == 20
    rows = data.outcomes
    for line, name in (
        (lines[1], "refusal_keywords"),
        (lines[3], "forbidden_complied"),
        (lines[7], "over_refusal_likelihood"),
    ):
        own = rows[(rows["outcome"] == name) & (rows["split"] == "in_domain")]
        assert [cell.value for cell in line.cells] == own["value"].tolist()
    figure = refusal_figure(lines, run.stages)
    assert len(figure.data) == 6
    assert all(list(line["x"]) == list(STAGES) for line in figure.data)


def pair(later: str, earlier: str, value: float) -> dict:
    numbers = {"metric": "update_excess_overlap", "value": value, "null_value": 0.0, "null_sd": 0.01, "z": value / 0.01}
    spread = {"lower_quartile": value - 0.1, "upper_quartile": value + 0.1, "modules": 14}
    return place("math-2", "math", 2) | {"control": None, "update": later, "other_update": earlier} | numbers | spread


def test_overlaps_are_those_of_the_runs_pairs(data: ReportData) -> None:
    alone = pair("math-2", "", 0.9) | {"metric": "update_norm"}
    other = pair("math-2", "elsewhere", 0.7)
    frame = pd.DataFrame([pair("math-2", "sft-1", 0.25), alone, other])
    run = data.runs[0]
    (found,) = overlaps(run, frame)
    assert (found.earlier.label, found.later.label, found.excess.value, found.chance.value) == (
        "sft",
        "math",
        0.25,
        0.0,
    )
    assert found.deviations.value == pytest.approx(25.0)
    heatmap = overlap_heatmap([found]).data[0]
    assert (list(heatmap["x"]), list(heatmap["y"])) == (["sft"], ["math"])
    assert [list(row) for row in heatmap["z"]] == [[0.25]]
    assert (heatmap["zmin"], heatmap["zmax"]) == (-0.25, 0.25)
    text = render_report(dataclasses.replace(data, updates=frame))
    assert "r0|updates" in page_data(text)["figures"]


def test_without_pairs_there_is_no_such_section(data: ReportData) -> None:
    assert 'id="updates"' not in render_report(data)
