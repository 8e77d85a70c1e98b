"""What is made of a finished study: the time of `limber report` and `limber analyze`, the page's size and opening."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Figure, Goal, note
from benchmarks.study_pages_case import Size, grown

SMALL, LARGE = Size(arms=2, seeds=2, moved=2), Size(arms=4, seeds=8, moved=3)
REPORT: Goal = ("<=", 20)
PAGE: Goal = ("<=", 6)
ANALYZE: Goal = ("<=", 120)
OPEN: Goal = ("<=", 3)
ASKED = {"analyze": (), "analyze/full": ("--full",), "analyze/json": ("--json",)}

# tells when the page says that it is drawn, and the frame after that is shown
OPENED = """
new MutationObserver((changes, observer) => {
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.opened = performance.now() / 1000; }));
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-ready"] });
"""


def figures(quick: bool) -> Iterator[Figure]:
    """The report of one run directory, then what is said of it on the terminal."""
    size, rounds = (SMALL, 1) if quick else (LARGE, 3)
    with TemporaryDirectory() as scratch:
        nodes = grown(size, Path(scratch))
        run, what = Path(scratch) / "run", f"of a study of {nodes} nodes and {size.chains} chains, all measured"
        yield _seconds("report", f"CPU of `limber report` {what}", run, (), rounds, None if quick else REPORT)
        page = run / "report.html"
        megabytes = page.stat().st_size / 1e6
        yield Figure("study_pages/page", f"the page {what}", megabytes, None if quick else PAGE, "MB")
        yield from opening(page, what, rounds, quick)
        for name, options in ASKED.items():
            told = f"CPU of `{' '.join(('limber analyze', *options))}` {what}"
            yield _seconds(name, told, run, options, 1, None if quick else ANALYZE)


def opening(page: Path, what: str, rounds: int, quick: bool) -> Iterator[Figure]:
    """Wall time from asking for the page until its first figures are shown; nothing where there is no Chromium."""
    with suppress(ImportError):
        from selenium import webdriver

        browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        driver = shutil.which("chromedriver")
        if browser and driver:
            options = webdriver.ChromeOptions()
            options.binary_location = browser
            for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1000"):
                options.add_argument(argument)
            with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome:
                chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": OPENED})
                taken = [_opened(chrome, page) for _ in range(rounds)]
            said, goal = f"opening the page {what}, in Chromium, until it is drawn", None if quick else OPEN
            yield Figure("study_pages/open", said, median(taken), goal, "seconds", min(taken), max(taken))


def _opened(chrome: Any, page: Path) -> float:
    from selenium.webdriver.support.ui import WebDriverWait

    chrome.get(page.as_uri())
    seconds: float = WebDriverWait(chrome, 120).until(lambda browser: browser.execute_script("return window.opened"))
    note(f"    opened in {seconds:.2f} s")
    return seconds


def _seconds(name: str, what: str, run: Path, options: tuple[str, ...], rounds: int, goal: Goal | None) -> Figure:
    taken = [_cpu(name.partition("/")[0], str(run), *options) for _ in range(rounds)]
    note(f"    {name}: {', '.join(f'{each:.1f}' for each in taken)} s CPU")
    return Figure(f"study_pages/{name}", what, median(taken), goal, "seconds", min(taken), max(taken))


def _cpu(*arguments: str) -> float:
    """CPU seconds of a `limber` command in a process of its own, imports and all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "limberlm", *arguments]
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
