"""The report in a real browser, opened from a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from limberlm.geometry import HEADLINE
from limberlm.outcomes.calibration import reliability_table
from limberlm.report.study import ReportData, write_report
from tests.report.chromium import assert_offline_without_errors, column, errors, needs_chromium, show, webdriver
from tests.report.controlled import judged, swept
from tests.report.synthetic import build
from tests.report.test_html import page_data

from selenium.webdriver.common.action_chains import ActionChains  # isort: skip
from selenium.webdriver.common.by import By  # isort: skip
from selenium.webdriver.support.ui import Select, WebDriverWait  # isort: skip

HOSTILE = "<img src=x onerror='window.hacked=1'>"
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def report(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    show(browser, report)
    return browser


def filters(page: webdriver.Chrome) -> list[Select]:
    return [Select(element) for element in page.find_elements(By.CSS_SELECTOR, ".filters select")]


def test_console_shows_no_error_and_nothing_is_fetched(page: webdriver.Chrome) -> None:
    assert_offline_without_errors(page)


def test_every_figure_is_drawn(page: webdriver.Chrome) -> None:
    drawn = page.execute_script(
        "return Array.from(document.querySelectorAll('.figure')).map(f => "
        "[f.dataset.figure, f.querySelectorAll('svg .point, svg .points path, svg .hm image').length])"
    )
    assert len(drawn) == 9
    assert all(count > 0 for _, count in drawn), drawn


def test_hovering_over_a_point_shows_its_exact_value(page: webdriver.Chrome, study: ReportData) -> None:
    node = page.find_element(By.CSS_SELECTOR, '[data-figure="r0|stage"]')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    points = node.find_elements(By.CSS_SELECTOR, ".points path.point")
    ActionChains(page).move_to_element(points[-1]).perform()
    label = WebDriverWait(page, 5).until(lambda _: node.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    frame = study.geometry
    rows = frame[
        (frame["metric"] == "effective_rank_corrected") & (frame["site"] == "band") & (frame["convention"] == "rms")
    ]
    value = rows.loc[rows["stage"] == "math", "value"].iloc[0]
    assert f"{value:.4f}" in label[0].text
    assert "math, depth band" in label[0].text
    assert "95 % interval" in label[0].text


def test_the_metric_picker_redraws_both_figures(page: webdriver.Chrome) -> None:
    pickers = page.find_elements(By.CSS_SELECTOR, ".pick-metric")
    Select(pickers[0]).select_by_value("anisotropy")
    for node in page.find_elements(By.CSS_SELECTOR, '[data-figure="r0|depth"], [data-figure="r0|stage"]'):
        assert "Anisotropy" in node.find_element(By.CSS_SELECTOR, ".ytitle").text
    assert [picker.get_attribute("value") for picker in pickers] == ["anisotropy", "anisotropy"]
    Select(page.find_elements(By.CSS_SELECTOR, ".pick-convention")[1]).select_by_value("last")
    ticks = page.find_elements(By.CSS_SELECTOR, '[data-figure="r0|depth"] .xtick')
    assert [tick.text.replace("\n", " ") for tick in ticks] == ["finalnorm"]


def test_the_table_sorts_and_filters(page: webdriver.Chrome, study: ReportData) -> None:
    frame = study.comparisons
    at_first = frame[(frame["against"] == "base") & (frame["site"] == "band")]
    assert len(column(page, 1)) == len(at_first)
    for select in filters(page):
        select.select_by_value("")
    filters(page)[0].select_by_visible_text("math")
    filters(page)[2].select_by_visible_text("Effective rank")
    rows = frame[(frame["stage"] == "math") & (frame["metric"] == "effective_rank")]
    assert len(column(page, 1)) == len(rows)
    head = page.find_elements(By.CSS_SELECTOR, ".comparisons thead button")[7]
    expected = sorted(rows["corrected"] - 1)
    page.execute_script("arguments[0].click()", head)
    assert [float(value) for value in column(page, 8)] == pytest.approx(expected, abs=1e-6)
    page.execute_script("arguments[0].click()", head)
    assert [float(value) for value in column(page, 8)] == pytest.approx(expected[::-1], abs=1e-6)
    page.find_element(By.CSS_SELECTOR, ".find").send_keys("FINAL norm")
    assert set(column(page, 5)) == {"final norm"}


def test_the_table_shows_all_rows_on_demand(page: webdriver.Chrome, study: ReportData) -> None:
    for select in filters(page):
        select.select_by_value("")
    assert len(column(page, 1)) == 100
    page.execute_script("document.querySelector('.more').click()")
    count = page.execute_script("return document.querySelectorAll('.comparisons tbody tr').length")
    assert count == len(study.comparisons)


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_never_scrolls_sideways(page: webdriver.Chrome, report: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    show(page, report)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_chain_picker_shows_another_run(browser: webdriver.Chrome, many: ReportData, tmp_path: Path) -> None:
    show(browser, write_report(many, tmp_path / "many.html"))
    Select(browser.find_element(By.CSS_SELECTOR, ".pick-run")).select_by_visible_text("math first, seed 1")
    visible = browser.execute_script(
        "return [...document.querySelectorAll('.run')].filter(r => r.offsetParent).map(r => r.dataset.run)"
    )
    assert set(visible) == {"r3"}
    ticks = browser.find_elements(By.CSS_SELECTOR, '[data-figure="r3|stage"] .xtick')
    assert [tick.text for tick in ticks] == ["base", "math", "sft", "dpo"]
    assert column(browser, 1)[0] == "math"
    assert errors(browser) == []


def test_hostile_names_run_nothing(browser: webdriver.Chrome, tmp_path: Path) -> None:
    data = build(
        chains=((HOSTILE, ("base", HOSTILE)), ("other", ("base", HOSTILE))),
        title=HOSTILE,
        metrics=("rankme",),
    )
    show(browser, write_report(data, tmp_path / "hostile.html"))
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "img") == []
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE


def test_an_empty_study_opens_without_error(browser: webdriver.Chrome, tmp_path: Path) -> None:
    show(browser, write_report(ReportData(title="nothing yet"), tmp_path / "empty.html"))
    assert errors(browser) == []


def test_a_seeds_button_in_the_overview_shows_that_run(
    browser: webdriver.Chrome, many: ReportData, tmp_path: Path
) -> None:
    show(browser, write_report(many, tmp_path / "many.html"))
    button = browser.find_element(By.CSS_SELECTOR, '.show-run[aria-label="Show math first, seed 0"]')
    button.send_keys("\n")  # as from a keyboard
    assert browser.find_element(By.CSS_SELECTOR, ".pick-run").get_attribute("value") == "r2"
    assert browser.find_element(By.CSS_SELECTOR, "#headline .run:not([hidden])").get_attribute("data-run") == "r2"
    assert column(browser, 1)[0] == "math"


def test_choosing_a_learning_rate_changes_every_figure_and_table_of_it(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    show(browser, write_report(swept(), tmp_path / "swept.html"))
    last = "return [...document.querySelectorAll('[data-figure^=\"r0|plasticity\"]')].map(f => f.data[0].y.at(-1))"
    assert browser.execute_script(last) == [2.0, 3.0]
    Select(browser.find_element(By.CSS_SELECTOR, '[data-choice="rate"]')).select_by_value("0.004")
    assert browser.execute_script(last) == [4.0, 5.0]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('[data-when-rate]')].filter(n => n.offsetParent)"
        ".map(n => n.dataset.whenRate)"
    )
    assert shown == ["0.004"]
    assert errors(browser) == []


def test_choosing_a_confidence_source_shows_its_diagrams_alone(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = write_report(judged(), tmp_path / "judged.html")
    show(browser, path)
    Select(browser.find_element(By.CSS_SELECTOR, '[data-choice="source"]')).select_by_value("next_token")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('[data-figure*=reliability]')].filter(f => f.offsetParent)"
        ".map(f => [f.dataset.figure, f.querySelectorAll('.points path').length > 0])"
    )
    assert shown == [["r0|reliability|next_token|arithmetic", True], ["r0|reliability|next_token|programs", True]]
    last = "return document.querySelector('[data-figure=\"r0|reliability|next_token|programs\"]').data.at(-1)"
    drawn, data = browser.execute_script(last), judged()
    rows = data.outcomes[(data.outcomes["stage"] == drawn["name"]) & (data.outcomes["task"] == "programs")]
    c, y = (rows.loc[rows["outcome"] == f"{name}_next_token", "items"].iloc[0] for name in ("confidence", "correct"))
    table = reliability_table(c, y, 10)
    assert drawn["x"] == pytest.approx(table["confidence"].tolist(), rel=1e-6)
    assert drawn["y"] == pytest.approx(table["accuracy"].tolist(), rel=1e-6)
    for text, row in zip(drawn["customdata"], table.to_dict("records"), strict=True):
        told = [float(number) for number in re.findall(r"[\d.]+", text[1].partition("<br>95 % interval")[2])]
        assert told == pytest.approx([100 * row["low"], 100 * row["high"], row["n"]], rel=1e-5)
    assert errors(browser) == []
    narrow = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    show(browser, path)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.slow
def test_a_real_study_opens_and_every_run_of_it_is_drawn(
    controlled: ReportData, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    path = write_report(controlled, tmp_path / "report.html")
    assert "r3|yardstick|effective_rank" in page_data(path.read_text("utf-8"))["figures"]
    show(browser, path)
    for button in browser.find_elements(By.CSS_SELECTOR, ".show-run"):
        browser.execute_script("arguments[0].click()", button)
        drawn = browser.execute_script(
            "return [...document.querySelectorAll('.figure[data-figure^=r]')].filter(f => f.offsetParent).map(f => "
            "[f.dataset.figure, f.querySelectorAll('svg .point, svg .points path, svg .hm image').length])"
        )
        assert {key.split("|")[0] for key, _ in drawn} == {button.get_attribute("data-show")}
        assert all(count > 0 for _, count in drawn), drawn
        assert (
            len(drawn) == 2 + 2 + 1 + len(HEADLINE) + 1 + 2
        )  # geometry, scores, plasticity, yardsticks, updates, training
    assert_offline_without_errors(browser)
