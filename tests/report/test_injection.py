"""Names from outside in the three pages, in a real browser: nothing runs, nothing is fetched, all is shown as it is."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from limberlm.report.compare.page import render_comparison
from limberlm.report.compare.pairs import Side
from limberlm.report.study import ReportData, write_report
from limberlm.report.trace import trace_report
from tests.report.arms import chain_ends
from tests.report.chromium import assert_offline_without_errors, needs_chromium, show, webdriver
from tests.report.synthetic import build

from selenium.common.exceptions import NoAlertPresentException  # isort: skip

pytestmark = needs_chromium
RUN = "window.__pwned=1;alert(1);fetch('http://127.0.0.1:9/pwned')"
PAYLOADS = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f'<img src="http://127.0.0.1:9/x" onerror="{RUN}">',
    f'"><svg onload="{RUN}">',
    f"' onmouseover='{RUN}' x='",
    f"<a href=\"javascript:{RUN}\">link</a>",
    "<!--", "-->", "]]>", "{{ 7 * 7 }}", "{% raw %}", "${7*7}", "%{x}", "\\u003cscript\\u003e",
    "\u202etxt.exe", "</style><style>*{display:none}",
)  # fmt: skip
NAME = " ".join(PAYLOADS)
SHOWN = NAME.replace("\u202e", "[U+202E]")
FORMULAS = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1+1", '=HYPERLINK("http://x")')


def study_page(folder: Path) -> Path:
    plain = build(chains=((NAME, ("base", NAME)), ("other", ("base", NAME))), title=NAME, metrics=("rankme",))
    hostile = {"settings": NAME, "versions": {NAME: NAME}, "notes": [NAME], "targets": {NAME: NAME}}
    data = ReportData(
        **{name: getattr(plain, name) for name in ("title", "geometry", "training", "comparisons")},
        outcomes=plain.outcomes.assign(task=NAME),
        **hostile,
    )
    return write_report(data, folder / "study.html")


def trace_page(folder: Path, chain_folder: Path) -> Path:
    trace = shutil.copytree(chain_folder, folder / "trace")
    for path in trace.glob("*.parquet"):
        table = pd.read_parquet(path)
        table["stage"] = table["stage"].replace("sft", NAME)
        table["label"] = NAME + table["label"].astype(str)
        table.to_parquet(path)
    (trace / "phases.json").unlink()
    listed = json.loads((trace / "checkpoints.json").read_text())
    (trace / "checkpoints.json").write_text(json.dumps(listed | {"notes": [NAME]}))
    (trace / "series.yaml").write_text(json.dumps({"name": NAME, "x": "tokens"}))
    return trace_report(trace, folder / "trace.html")


def compare_page(folder: Path) -> Path:
    side = Side(NAME, "base-0", "probe", chain_ends(arms=("none", NAME)))
    (folder / "compare.html").write_text(render_comparison(side, side), encoding="utf-8")
    return folder / "compare.html"


@pytest.fixture
def pages(tmp_path: Path, chain_folder: Path) -> dict[str, Callable[[], Path]]:
    return {
        "study": lambda: study_page(tmp_path),
        "trace": lambda: trace_page(tmp_path, chain_folder),
        "compare": lambda: compare_page(tmp_path),
    }


@pytest.mark.parametrize("kind", ["study", "trace", "compare"])
def test_names_run_nothing_and_are_shown_as_they_are(
    browser: webdriver.Chrome, pages: dict[str, Callable[[], Path]], kind: str
) -> None:
    show(browser, pages[kind]())
    browser.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.accept()
    assert browser.execute_script("return window.__pwned") is None
    assert_offline_without_errors(browser)  # a script that the page's policy held up would be an error too
    hooked = (
        "return [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on')"
    )
    assert browser.execute_script(hooked + " || /^\\s*javascript:/i.test(a.value))).length") == 0
    assert browser.find_elements("css selector", "img, iframe, object, embed, svg[onload]") == []
    text = browser.execute_script("return document.body.textContent")
    assert " ".join(SHOWN.split()) in " ".join(text.split())
    assert "\u202e" not in text


def test_no_cell_of_a_csv_starts_a_formula(browser: webdriver.Chrome, pages: dict[str, Callable[[], Path]]) -> None:
    show(browser, pages["compare"]())
    text = browser.execute_script("return csv.text(arguments[0])", [[formula, "x", formula] for formula in FORMULAS])
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[0] for row in rows] == ["'" + formula for formula in FORMULAS]
    name = browser.execute_script("return csv.name(arguments[0])", ["../../etc/x", "a\u0000b/c", "=cmd|x"])
    assert name == "etc-x_a-b-c_cmd-x.csv"
