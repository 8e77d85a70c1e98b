"""The figures that the page draws itself from its numbers, in a real browser, against the tables they are of."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from limberlm.report import words
from limberlm.report.study import ReportData, write_report
from tests.report.chromium import errors, needs_chromium, show, webdriver

from selenium.webdriver.common.by import By  # isort: skip
from selenium.webdriver.support.ui import Select  # isort: skip

pytestmark = needs_chromium
STAGES = ["base", "sft", "dpo", "math"]


@pytest.fixture(scope="module")
def page(study: ReportData, browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> webdriver.Chrome:
    show(browser, write_report(study, tmp_path_factory.mktemp("figures") / "report.html"))
    return browser


def rows_of(study: ReportData, metric: str, convention: str = "rms") -> pd.DataFrame:
    frame = study.geometry
    return frame[(frame["metric"] == metric) & (frame["convention"] == convention)]


def drawn(page: webdriver.Chrome, kind: str, metric: str, convention: str = "rms") -> dict[str, Any]:
    """A figure of the first run as Plotly holds it, after the reader has picked a metric and a convention."""
    Select(page.find_elements(By.CSS_SELECTOR, ".pick-metric")[0]).select_by_value(metric)
    Select(page.find_elements(By.CSS_SELECTOR, ".pick-convention")[0]).select_by_value(convention)
    return page.execute_script(
        "const n = document.querySelector(`[data-figure='r0|${arguments[0]}']`);"
        "return JSON.parse(JSON.stringify({data: n.data, layout: n.layout}))",
        kind,
    )


def named(figure: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace.get("name") == name]


def near(values: pd.Series) -> Any:
    """The same to the seven digits that the page holds."""
    return pytest.approx(values.tolist(), rel=1e-6, nan_ok=True)


def nulls(figure: dict[str, Any]) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if str(trace.get("name")).startswith("null value")]


@pytest.mark.parametrize("convention", ["rms", "raw"])
@pytest.mark.parametrize("metric", ["effective_rank_corrected", "anisotropy", "variance_share_8"])
def test_a_line_per_stage_with_the_values_of_the_table(
    page: webdriver.Chrome, study: ReportData, metric: str, convention: str
) -> None:
    frame, figure = rows_of(study, metric, convention), drawn(page, "depth", metric, convention)
    for stage in STAGES:
        blocks, final = named(figure, stage)
        own = frame[(frame["stage"] == stage) & ~frame["site"].isin(["band", "final_norm"])].sort_values("depth")
        assert blocks["y"] == near(own["value"])
        assert blocks["x"] == own["depth"].tolist()
        assert final["y"] == near(frame.loc[(frame["stage"] == stage) & (frame["site"] == "final_norm"), "value"])
        assert [bool(trace["showlegend"]) for trace in (blocks, final)] == [True, False]


def test_ribbons_run_from_low_to_high(page: webdriver.Chrome, study: ReportData) -> None:
    frame, figure = rows_of(study, "rankme_corrected"), drawn(page, "depth", "rankme_corrected")
    ribbons = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
    assert len(ribbons) == 4
    own = frame[(frame["stage"] == "base") & ~frame["site"].isin(["band", "final_norm"])].sort_values("depth")
    assert ribbons[0]["y"] == near(pd.concat([own["high"], own["low"][::-1]]))


def test_the_null_value_is_a_dashed_line(page: webdriver.Chrome) -> None:
    (null,) = nulls(drawn(page, "depth", "rankme"))
    assert null["line"]["dash"] == "dash"
    assert set(null["y"]) == {255.8}


def test_a_null_value_far_from_the_data_starts_hidden(page: webdriver.Chrome) -> None:
    assert nulls(drawn(page, "depth", "participation_ratio"))[0]["visible"] == "legendonly"
    assert nulls(drawn(page, "stage", "anisotropy", "raw"))[0]["visible"] == "legendonly"


def test_a_metric_without_null_value_has_no_such_line(page: webdriver.Chrome) -> None:
    assert not nulls(drawn(page, "depth", "massive_tokens", "raw"))


def test_intervals_are_drawn_where_they_are_even_beside_the_value(page: webdriver.Chrome, study: ReportData) -> None:
    frame = rows_of(study, "effective_rank")
    band = frame[frame["site"] == "band"]
    assert (band["value"] < band["low"] * 1.02).all()
    figure = drawn(page, "stage", "effective_rank")
    bars = [t for t in figure["data"] if t["marker"]["symbol"] == "line-ew-open" and t.get("hoverinfo") == "skip"]
    assert [y for trace in bars for y in trace["y"] if y is not None] == near(band[["low", "high"]].stack())


def test_by_stage_falls_back_to_the_final_norm(page: webdriver.Chrome, study: ReportData) -> None:
    figure = drawn(page, "stage", "rankme", "last")
    assert figure["data"][-1]["y"] == near(rows_of(study, "rankme", "last")["value"])
    assert figure["data"][-1]["x"] == STAGES


def test_ranks_over_a_wide_range_get_round_logarithmic_ticks(page: webdriver.Chrome) -> None:
    axis = drawn(page, "depth", "stable_rank")["layout"]["yaxis"]
    assert axis["type"] == "log"
    assert {"10", "100"} <= set(axis["ticktext"])
    assert "tickvals" not in drawn(page, "depth", "anisotropy", "raw")["layout"]["yaxis"]


def test_axes_name_their_unit(page: webdriver.Chrome) -> None:
    layout = drawn(page, "depth", "rankme")["layout"]
    assert layout["yaxis"]["title"]["text"] == "RankMe<br>(directions)"
    assert "share of blocks" in layout["xaxis"]["title"]["text"]


def test_gaps_leave_a_figure_with_what_there_is(browser: webdriver.Chrome, small: ReportData, tmp_path: Path) -> None:
    geometry = small.geometry.copy()
    geometry.loc[geometry["stage"] == "dpo", ["low", "high", "std_error", "null_value"]] = math.nan
    geometry = geometry[~((geometry["stage"] == "sft") & (geometry["metric"] == "effective_rank_corrected"))]
    show(browser, write_report(dataclasses.replace(small, geometry=geometry), tmp_path / "gaps.html"))
    figure = drawn(browser, "depth", "effective_rank_corrected")
    assert [stage for stage in STAGES if named(figure, stage)] == ["base", "dpo", "math"]
    assert len([trace for trace in figure["data"] if trace.get("fill") == "toself"]) == 2
    assert "no interval" in named(figure, "dpo")[0]["customdata"][0][1]
    assert drawn(browser, "stage", "effective_rank_corrected")["data"][-1]["x"] == ["base", "dpo", "math"]
    assert errors(browser) == []


def test_numbers_read_the_same_in_the_page_as_in_its_tables(page: webdriver.Chrome) -> None:
    rng = np.random.default_rng(0)
    values = [*(10.0 ** rng.uniform(-7, 9, 300)), *(-(10.0 ** rng.uniform(-7, 9, 100))), *rng.uniform(0.5, 2, 200)]
    values += [*rng.uniform(0.99, 1.01, 100), 0.0, 1.0, 9.9996, 0.0001, 1e7, 1.00004, 0.99999, 12345678.0]
    script = (
        "const v = arguments[0]; return [v.map((x) => words.number(x)), v.map((x) => words.number(x, 6)), "
        "v.map((x) => words.change(true, x)), v.map((x) => words.change(false, x)), v.map((x) => words.count(x)), "
        "v.map((x) => words.changeInterval(true, x, 2 * x)), v.map((x) => words.interval(x, 2 * x))]"
    )
    shown = page.execute_script(script, [float(value) for value in values])
    ratio, difference = "effective_rank", "anisotropy"
    expected = [
        [words.number(x) for x in values],
        [words.number(x, 6) for x in values],
        [words.change(ratio, x) for x in values],
        [words.change(difference, x) for x in values],
        [words.count(x) for x in values],
        [words.change_interval(ratio, x, 2 * x) for x in values],
        [words.interval(x, 2 * x) for x in values],
    ]
    assert shown == expected
    odd = page.execute_script("return [NaN, Infinity, -Infinity].map((x) => words.number(x))")
    assert odd == [words.number(x) for x in (math.nan, math.inf, -math.inf)]
