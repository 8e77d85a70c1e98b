"""The section on whether arms act through the geometry, against planted arms."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from limberlm.analysis.mediation import CONFOUNDING, GEOMETRY, OUTCOME, WITHOUT_GEOMETRY, WITHOUT_KL, mediation_of
from limberlm.report.study import ReportData, render_report
from limberlm.report.study.mediated import mediation_section
from limberlm.report.study.told import Told
from tests.analysis.test_mediation import GEOMETRY_ONLY, KL_ONLY, ends
from tests.report.arms import with_arms
from tests.report.test_html import page_data
from tests.report.test_whole_study import said


def section(arms: dict[str, tuple[float, float]], **planted: float) -> Told:
    found = mediation_section(mediation_of(ends(arms, **planted)), "")
    assert found is not None
    return found


def drawn(found: Told) -> list[Any]:
    (picture,) = found.pictures
    return list(picture.figure.data)


def test_planted_mediation_is_told_with_what_no_arm_randomises() -> None:
    found = section(GEOMETRY_ONLY | KL_ONLY)
    assert any(text.startswith("Consistent with mediation") for text in found.verdict)
    assert any(CONFOUNDING in text for text in found.verdict)


def test_where_nothing_may_be_said_that_is_what_it_says() -> None:
    for arms in (GEOMETRY_ONLY, KL_ONLY):
        text = " ".join(section(arms).verdict)
        assert "Nothing is said of mediation: " in text
        assert "Consistent with mediation" not in text


def test_the_figure_holds_every_arm_with_both_intervals_and_its_class() -> None:
    table = mediation_of(ends(GEOMETRY_ONLY | KL_ONLY)).table.set_index("arm")
    traces = drawn(section(GEOMETRY_ONLY | KL_ONLY))
    points = {
        told[0]: (x, y, trace["name"])
        for trace in traces
        if "customdata" in trace
        for x, y, told in zip(trace["x"], trace["y"], trace["customdata"], strict=True)
    }
    assert points == {arm: (row[GEOMETRY], row[OUTCOME], row["class"]) for arm, row in table.iterrows()}
    looks = {trace["name"]: trace["marker"] for trace in traces if "customdata" in trace}
    assert set(looks) == {WITHOUT_KL, WITHOUT_GEOMETRY}
    assert len({look["color"] for look in looks.values()}) == len({look["symbol"] for look in looks.values()}) == 2
    ends_drawn = {value for trace in traces if "customdata" not in trace for value in (*trace["x"], *trace["y"])}
    for row in table.to_dict("records"):
        assert {row[f"{name}_{end}"] for name in (GEOMETRY, OUTCOME) for end in ("low", "high")} <= ends_drawn


def test_one_pair_has_points_without_intervals() -> None:
    table = ends({"a": (0.1, 0.0)})
    found = mediation_section(mediation_of(table[(table["seed"] == 0) & (table["ordering"] == "o0")]), "")
    assert found is not None
    assert len(drawn(found)) == 1
    (grid,) = found.grids
    assert all(cell.interval == "" and "nan" not in cell.text for _, cells in grid.rows for cell in cells)
    assert any("fewer than 4 pairs" in reason for reason in found.reasons)


@pytest.mark.parametrize(("why", "title"), [("KL to the base was not measured", True), ("", False)])
def test_why_there_is_none_is_said_only_where_arms_were_run(why: str, title: bool) -> None:
    bare = dataclasses.replace(with_arms(ReportData(title="x")), mediation=None, why_no_mediation=why)
    assert ("That cannot be answered: KL to the base was not measured." in said(render_report(bare))) == title
    alone = dataclasses.replace(bare, ends=bare.ends[bare.ends["arm"] == "none"])
    assert "act through the geometry" not in said(render_report(alone))


def test_the_section_and_its_figure_are_in_the_page() -> None:
    text = render_report(with_arms(ReportData(title="x")))
    assert "Do arms act through the geometry?" in said(text)
    assert "mediation|0" in page_data(text)["figures"]
