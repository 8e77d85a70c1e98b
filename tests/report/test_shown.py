"""Which runs a page shows one at a time, and that it still tells of all."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from limberlm.observe import Geometry, measure
from limberlm.report.study import ReportData, render_report, report_data
from limberlm.report.study.shown import shown_runs
from limberlm.study import Results
from tests.analysis.gate.conftest import TEXTS, nudged
from tests.report.test_html import opened, page_data
from tests.study.planted_run import plant

ORDERINGS = ["math > code", "code > math"]


@pytest.fixture(scope="module")
def geometry(tiny_model_folder: Path) -> Geometry:
    moved = nudged(tiny_model_folder, 0.05, seed=1)
    return measure(moved, TEXTS, max_length=16, reference=tiny_model_folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, geometry: Geometry, study_settings: dict[str, Any]) -> Results:
    """Two orderings with three seeds, and a control: checkpoints are shared within a seed, the base by all."""
    stage = study_settings["stages"]["sft"]
    settings = study_settings | {
        "stages": {"math": stage | {"data": "testbed:arithmetic"}, "code": stage | {"data": "testbed:programs"}},
        "orderings": [ordering.split(" > ") for ordering in ORDERINGS],
        "seeds": [0, 1, 2],
        "controls": ["zero_learning_rate"],
    }
    return Results(plant(tmp_path_factory.mktemp("planted"), settings, geometry))


@pytest.mark.parametrize(
    ("nodes", "shown"),
    [
        (0, [(ORDERINGS[0], 0)]),
        (3, [(ORDERINGS[0], 0)]),
        (4, [(ORDERINGS[0], 0)]),
        (5, [(name, 0) for name in ORDERINGS]),
        (9, [*((name, 0) for name in ORDERINGS), *((name, 1) for name in ORDERINGS)]),
        (13, [(name, seed) for name in ORDERINGS for seed in range(3)]),
    ],
)
def test_the_first_seeds_of_all_chains_as_far_as_their_checkpoints_go(
    results: Results, geometry: Geometry, nodes: int, shown: list[tuple[str, int]]
) -> None:
    runs = [chain for chain in results.chains if chain.control is None]
    assert shown_runs(results, runs, most=nodes * len(geometry.table)) == frozenset(shown)


def test_a_report_of_every_run_has_every_run(results: Results) -> None:
    few = report_data(results, "few")
    assert few.shown_runs == few.runs  # a small study
    assert report_data(results, "all", every_run=True).shown == few.shown


def test_what_is_not_shown_is_compared_at_the_headline_as_what_is(results: Results) -> None:
    whole = results.table("comparisons")
    some = set(results.chains[0].nodes)
    found = results.comparisons(some)
    wanted = whole[whole["node"].isin(some) | whole["headline"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, wanted)
    assert 0 < len(found) < len(whole)


def test_a_page_of_some_runs_has_their_numbers_and_the_words_of_all(many: ReportData) -> None:
    shown = {(many.runs[0].chain, 0)}
    whole, part = (opened(render_report(dataclasses.replace(many, shown=each))) for each in (None, shown))
    assert [re.findall(r'<option value="(r\d+)">', text) for text in (whole, part)] == [
        ["r0", "r1", "r2", "r3"],
        ["r0"],
    ]
    assert "1 of 4 runs are here" in part
    assert "runs are here" not in whole
    (own,) = page_data(part)["runs"]
    assert {node for _, _, node in own} == page_data(part)["geometry"]["nodes"].keys()
    assert part.count('class="show-run"') == 1
    for text in (whole, part):
        body = text[text.index('id="overview"') :]
        cells = re.findall(r'data-value="([^"]*)"', body[: body.index("</table>")])
        assert cells == re.findall(r'data-value="([^"]*)"', whole[whole.index('id="overview"') :])[: len(cells)]
