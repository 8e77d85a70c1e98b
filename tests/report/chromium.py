"""A real browser for pages that open from a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver")


def start() -> webdriver.Chrome:
    """A browser without a window, 1200 pixels wide."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1000",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def show(browser: webdriver.Chrome, path: Path) -> None:
    """Open a page and wait until it is drawn."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.documentElement.dataset.ready"))


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    """A column of the page's large table: exact values where a cell has one, its text elsewhere."""
    cells = browser.find_elements("css selector", f".comparisons tbody td:nth-child({number})")
    return [cell.get_attribute("data-value") or cell.text for cell in cells]


def assert_offline_without_errors(browser: webdriver.Chrome) -> None:
    """The console complains of nothing, and nothing was asked for but the page itself."""
    assert errors(browser) == []
    urls = fetched(browser)
    assert urls, "the performance log saw not even the page itself"
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def errors(browser: webdriver.Chrome) -> list[str]:
    """What the console complains of."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def fetched(browser: webdriver.Chrome) -> list[str]:
    """Every address that was asked for, the page's own among them."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
