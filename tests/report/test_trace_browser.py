"""The report of a trace in a real browser, opened from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from limberlm.report.trace import Trace, trace_report
from tests.report.chromium import assert_offline_without_errors, column, errors, needs_chromium, show, webdriver

from selenium.webdriver.common.action_chains import ActionChains  # isort: skip
from selenium.webdriver.common.by import By  # isort: skip
from selenium.webdriver.support.ui import Select, WebDriverWait  # isort: skip

pytestmark = needs_chromium
VISIBLE = "return [...document.querySelectorAll('.figure')].filter(f => f.offsetParent)"


@pytest.fixture(scope="module")
def report(chain_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace_report(chain_folder, tmp_path_factory.mktemp("trace") / "report.html")


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    show(browser, report)
    return browser


def emulate(page: webdriver.Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def ink(page: webdriver.Chrome) -> str:
    return page.execute_script("return document.querySelector('.figure .xtitle').style.fill")


def test_console_shows_no_error_and_nothing_is_fetched(page: webdriver.Chrome) -> None:
    assert_offline_without_errors(page)


def test_every_figure_of_the_first_stage_is_drawn_at_its_height(page: webdriver.Chrome) -> None:
    drawn = page.execute_script(
        f"{VISIBLE}.map(f => [f.dataset.figure, f.querySelectorAll('svg .point, svg .hm image, svg .js-line').length,"
        " f.clientHeight, f.querySelector('.main-svg').height.baseVal.value])"
    )
    assert {key.split("|")[0] for key, *_ in drawn} == {"s0", "c0"}
    assert len(drawn) >= 14
    for key, marks, height, inner in drawn:
        assert marks > 0, key
        assert height == pytest.approx(inner, abs=1), key


def test_a_figure_keeps_its_height_when_the_window_changes(page: webdriver.Chrome) -> None:
    heights = f"{VISIBLE}.map(f => f.querySelector('.main-svg').height.baseVal.value)"
    before = page.execute_script(heights)
    page.set_window_size(900, 1000)
    WebDriverWait(page, 10).until(
        lambda b: b.execute_script(f"{VISIBLE}[0].querySelector('.main-svg').width.baseVal.value < 880")
    )
    assert page.execute_script(heights) == before
    page.set_window_size(1200, 1000)


def test_hovering_over_a_point_shows_its_exact_value_and_interval(page: webdriver.Chrome, chain: Trace) -> None:
    table = chain.geometry
    here = (table["metric"] == "effective_rank_corrected") & (table["convention"] == "last")
    row = table[here & (table["stage"] == "pretraining") & (table["step"] == 152)].iloc[0]
    node = page.find_element(By.CSS_SELECTOR, '[data-figure="s0|training|0"]')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", node)
    steps = sorted(table.loc[here & (table["stage"] == "pretraining"), "step"])
    of_line = (
        "return [...arguments[0].querySelectorAll('.xy .trace')].find(t => t.querySelectorAll('.point').length > 9)"
    )
    points = page.execute_script(of_line, node).find_elements(By.CSS_SELECTOR, ".point")
    assert len(points) == len(steps)
    ActionChains(page).move_to_element(points[steps.index(152)]).perform()
    label = WebDriverWait(page, 5).until(lambda _: node.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    assert f"{row['value']:.6g}" in label[0].text
    assert f"95 % interval {row['low']:.6g} to {row['high']:.6g}" in label[0].text
    assert "step 152" in label[0].text


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_never_scrolls_sideways(page: webdriver.Chrome, report: Path, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    show(page, report)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    wide = page.execute_script(f"{VISIBLE}.filter(f => f.scrollWidth > f.clientWidth + 1).map(f => f.dataset.figure)")
    assert wide == []
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_stage_picker_shows_another_stage(page: webdriver.Chrome) -> None:
    Select(page.find_element(By.CSS_SELECTOR, ".pick-run")).select_by_visible_text("rlvr (4 checkpoints)")
    keys = page.execute_script(f"{VISIBLE}.map(f => f.dataset.figure.split('|')[0])")
    assert set(keys) == {"s3", "c0"}
    title = page.find_element(By.CSS_SELECTOR, '[data-figure="s3|training|0"] .xtitle').text
    assert title.startswith("Step")
    assert errors(page) == []


def test_the_table_sorts_by_exact_values_and_is_narrowed(page: webdriver.Chrome, chain: Trace) -> None:
    selects = [Select(each) for each in page.find_elements(By.CSS_SELECTOR, ".filters select")]
    selects[1].select_by_visible_text("pretraining")
    selects[2].select_by_visible_text("Effective rank, bias-corrected")
    selects[3].select_by_visible_text("final norm, last")
    table = chain.geometry
    here = (table["metric"] == "effective_rank_corrected") & (table["convention"] == "last")
    expected = sorted(table.loc[here & (table["stage"] == "pretraining"), "value"])
    head = page.find_elements(By.CSS_SELECTOR, ".comparisons thead button")[6]
    page.execute_script("arguments[0].click()", head)
    assert [float(value) for value in column(page, 7)] == expected
    page.execute_script("arguments[0].click()", head)
    assert [float(value) for value in column(page, 7)] == expected[::-1]


def test_shown_rows_can_be_copied_with_all_digits(page: webdriver.Chrome, chain: Trace) -> None:
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.find_element(By.CSS_SELECTOR, ".find").send_keys("alpha-ReQ")
    page.execute_script("document.querySelector('.copy').click()")
    said = WebDriverWait(page, 5).until(lambda b: b.find_element(By.CSS_SELECTOR, ".copied").text)
    copied = page.execute_async_script(
        "navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))"
    )
    lines = [line.split("\t") for line in copied.splitlines()]
    rows = chain.geometry[chain.geometry["metric"] == "alpha_req"]
    assert lines[0][6:9] == ["Value", "Low", "High"]
    assert said == f"Copied {len(rows)} rows."
    assert sorted(float(line[6]) for line in lines[1:]) == sorted(rows["value"])


def test_dark_pages_and_paper_have_their_own_ink(page: webdriver.Chrome, report: Path) -> None:
    emulate(page, "dark")
    show(page, report)
    dark = ink(page)
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    paper = ink(page)
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert ink(page) == dark
    emulate(page, "light")
    show(page, report)
    assert paper == ink(page) != dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
