"""The pages for who reads them on a phone, in the dark, by keyboard or by ear, on paper, or as a spreadsheet."""

from __future__ import annotations

import csv
import io
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from limberlm.analysis.mediation import mediation_of
from limberlm.report.compare import render_comparison
from limberlm.report.compare.pairs import Side
from limberlm.report.study import write_report
from limberlm.report.study.data import ReportData
from tests.report.arms import chain_ends, with_arms, with_kl
from tests.report.chromium import assert_offline_without_errors, needs_chromium, show, webdriver

from selenium.webdriver.common.by import By  # isort: skip
from selenium.webdriver.common.keys import Keys  # isort: skip

axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
pytestmark = needs_chromium
HOSTILE = "<img src=x onerror='window.hacked=1'>"
FORMULA = '=HYPERLINK("http://x")'


@pytest.fixture(scope="module")
def pages(study: ReportData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    one, two = (Side(name, "base-0", "probe", chain_ends(shift=shift)) for name, shift in (("one", 0.0), ("two", 0.1)))
    (folder / "both.html").write_text(render_comparison(one, two))
    return {"study": write_report(with_arms(study), folder / "study.html"), "both": folder / "both.html"}


@pytest.fixture
def look(browser: webdriver.Chrome, request: pytest.FixtureRequest) -> Any:
    feature = {"name": "prefers-color-scheme", "value": request.param}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    yield request.param
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.fixture
def width(browser: webdriver.Chrome, request: pytest.FixtureRequest) -> Any:
    metrics = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": request.param < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield request.param
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


LOOKS = list(product(("study", "both"), ("light", "dark"), (390, 1280)))
QUICK = LOOKS[0], LOOKS[7]  # either page, in either light, at either width


@pytest.mark.parametrize(
    ("page", "look", "width"),
    [pytest.param(*each, marks=[] if each in QUICK else pytest.mark.slow) for each in LOOKS],
    indirect=["look", "width"],
)
def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(
    browser: webdriver.Chrome, pages: dict[str, Path], page: str, look: str, width: int
) -> None:
    show(browser, pages[page])
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_script((resources.files(axe) / "axe.min.js").read_text("utf-8"))
    browser.set_script_timeout(120)
    found = browser.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 20
    grave = [
        (each["id"], [(node["html"][:160], node["failureSummary"][:200]) for node in each["nodes"][:3]])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


def test_every_figure_tells_its_values_and_gives_them_as_csv(
    browser: webdriver.Chrome, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    show(browser, pages["study"])
    nodes = browser.find_elements(By.CSS_SELECTOR, ".figure")
    texts = [node.get_attribute("aria-label") for node in nodes]
    assert all(any(character.isdigit() for character in text) for text in texts), texts
    buttons = browser.find_elements(By.CSS_SELECTOR, ".figure + button.csv")
    assert len(buttons) == len(nodes)
    place = [node.get_attribute("data-figure") for node in nodes].index("arms|0")
    buttons[place].send_keys(Keys.ENTER)
    browser.execute_async_script("setTimeout(arguments[0], 800)")
    (path,) = tmp_path.glob("*.csv")
    assert path.name.endswith("geometry-effective-rank.csv")
    rows = pd.read_csv(path, encoding="utf-8-sig").set_index("label")
    from limberlm.analysis.arms import arms_table

    table = arms_table(chain_ends())
    for row in table[table["quantity"] == "effective_rank"].to_dict("records"):
        own = rows.loc[row["arm"]]
        assert own["change of effective rank, %"] == pytest.approx(row["effect"], rel=1e-12)
        assert [own["95 % low"], own["95 % high"]] == pytest.approx([row["low"], row["high"]], rel=1e-12)


def test_a_point_with_an_interval_each_way_has_both_in_the_csv(
    browser: webdriver.Chrome, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    show(browser, pages["study"])
    browser.find_element(By.CSS_SELECTOR, ".figure[data-figure='mediation|0'] + button.csv").send_keys(Keys.ENTER)
    browser.execute_async_script("setTimeout(arguments[0], 800)")
    (path,) = tmp_path.glob("*.csv")
    rows = pd.read_csv(path, encoding="utf-8-sig").set_index("label")
    table = mediation_of(with_kl(chain_ends())).table.set_index("arm")
    assert set(rows.index) == set(table.index)
    for arm, row in table.iterrows():
        own = rows.loc[arm]
        assert [own["95 % low"], own["95 % high"]] == pytest.approx([row["future_loss_low"], row["future_loss_high"]])
        beside = [own[f"95 % {end} of change of effective rank, %"] for end in ("low", "high")]
        assert beside == pytest.approx([row["effective_rank_low"], row["effective_rank_high"]])


def test_a_csv_quotes_names_and_defuses_formulas(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["study"])
    rows = [["series", "x"], [FORMULA, 1.5], ['a,"b"\nc', None], ["&lt;b&gt;<br>x", -2]]
    text = browser.execute_script("return csv.text(arguments[0])", rows)
    assert list(csv.reader(io.StringIO(text))) == [
        ["series", "x"],
        ["'" + FORMULA, "1.5"],
        ['a,"b"\nc', ""],
        ["<b> x", "-2"],
    ]


def test_all_controls_are_reached_by_keyboard_in_the_order_of_the_page(
    browser: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    show(browser, pages["study"])
    wanted = browser.execute_script(
        "window.inOrder = [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex=\"0\"]')]"
        ".filter(n => n.checkVisibility() && !n.disabled); return window.inOrder.length"
    )
    reached = []
    for _ in range(wanted + 20):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.execute_script("return window.inOrder.indexOf(document.activeElement)"))
        if reached[-1] == wanted - 1:
            break
    assert wanted > 20
    assert [place for place in reached if place >= 0] == list(range(wanted))


@pytest.mark.slow
def test_hostile_names_of_arms_run_nothing(browser: webdriver.Chrome, small: ReportData, tmp_path: Path) -> None:
    ends = chain_ends(arms=("none", HOSTILE, FORMULA))
    show(browser, write_report(with_arms(small, ends), tmp_path / "hostile.html"))
    assert browser.execute_script("return window.hacked") is None
    assert browser.find_elements(By.CSS_SELECTOR, "img") == []
    side = Side(HOSTILE, "base-0", "probe", ends)
    (tmp_path / "both.html").write_text(render_comparison(side, side))
    show(browser, tmp_path / "both.html")
    assert browser.execute_script("return window.hacked") is None
    assert_offline_without_errors(browser)


def test_paper_shows_figures_and_no_controls(browser: webdriver.Chrome, pages: dict[str, Path]) -> None:
    show(browser, pages["study"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = "return [...document.querySelectorAll('.csv, .more, .contents')].filter(n => n.offsetParent).length"
        assert browser.execute_script(hidden) == 0
        assert browser.execute_script("return document.querySelectorAll('.figure svg').length") > 5
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
