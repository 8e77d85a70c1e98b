"""The toy model's page shows what a run gives, and its prose says no other numbers."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import toy_page

from limberlm.testbed.toy import golden_run, golden_start, imbalance, spectral_rank
from limberlm.testbed.toy_controls import CONTROLS, swings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "toy.md"
SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def page() -> str:
    return toy_page.filled(PAGE.read_text())


def test_every_mark_is_filled_and_other_pages_are_left_alone(page: str) -> None:
    assert "<!--" not in page
    assert page.count("<svg") == 1
    assert toy_page.filled("no <!-- toy --> mark") == "no <!-- toy --> mark"


def test_the_tables_hold_what_a_run_gives(page: str) -> None:
    run = golden_run(3000)
    for step in (0, 14, 100, 205, 300, 332, 1000, 3000):
        assert f"| {step:,} | {run.rank[step]:.6f} | " in page
    for control in CONTROLS:
        assert re.search(
            rf"\| {re.escape(control.name)} \({control.seeds}\) \|.*\| {re.escape(control.claim)} \|", page
        )
    assert "| 0.001 | 0.0001 to 0.0066 | 6 of 8 |" in page


def test_the_numbers_in_the_prose_are_those_of_the_run(page: str) -> None:
    run = golden_run()
    own = swings(run.rank[:, None])
    assert f"The dip is {100 * (1 - own.dip.item() / run.rank[0]):.1f} %" in page
    assert f"the later decline is {100 * own.decline.item() / own.peak.item():.2f} %" in page
    start, end = ((run.features[step], run.weights[step]) for step in (0, 300))
    drift = np.linalg.norm(imbalance(*end) - imbalance(*start)) / np.linalg.norm(end[0].T @ end[0])
    assert f"changes it by {100 * drift:.2f} % in 300 steps" in page
    features = golden_start()[0]
    assert f"starts at {spectral_rank(features - features.mean(0))[0]:.2f} and does not dip" in page


def test_the_figure_is_the_run_and_can_be_read_without_seeing_it(page: str) -> None:
    drawing = re.search(r"<svg.*?</svg>", page, re.DOTALL)
    assert drawing is not None
    svg = ElementTree.fromstring(drawing.group())
    assert svg.attrib["role"] == "img"
    assert "1.933 at step 0, 1.906 at step 14" in str(svg.find(f"{SPACE}desc").text)  # type: ignore[union-attr]
    lines = {line.find(f"{SPACE}title").text: line for line in svg.iter(f"{SPACE}polyline")}  # type: ignore[union-attr]
    heights = [float(point.split(",")[1]) for point in lines["RankMe"].attrib["points"].split()]
    rank = golden_run().rank
    assert np.corrcoef(heights, rank)[0, 1] == pytest.approx(-1, abs=1e-4)
    assert len(list(svg.iter(f"{SPACE}polyline"))) == 6 + 1 + 2
    wide, high = toy_page.WIDTH, toy_page.HEIGHT
    for line in svg.iter(f"{SPACE}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= wide
            assert 0 <= y <= high


def test_the_figure_does_not_end_at_a_blank_line_and_fetches_nothing(page: str) -> None:
    figure = page[page.index("<figure") : page.index("</figure>")]
    assert "\n\n" not in figure
    assert not re.search(r"<script|\son\w+=|https?://(?!www\.w3\.org/2000/svg)", figure)
