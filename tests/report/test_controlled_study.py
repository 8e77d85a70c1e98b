"""The report of a real study with orderings, seeds and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from limberlm.observe import Geometry, compare
from limberlm.observe.updates import Updates
from limberlm.report import ReportData, write_report
from limberlm.report.changes import CELLS
from limberlm.report.data import list_runs
from limberlm.report.overview import overview
from limberlm.report.study import report_data
from limberlm.report.updates import overlaps
from limberlm.report.yardsticks import sentences, yardsticks, zero_sentences
from limberlm.study import Results, Study
from tests.report.chromium import errors, fetched, needs_chromium, show, webdriver
from tests.report.test_html import page_data

from selenium.webdriver.common.by import By  # isort: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> Results:
    """Two orderings of two stages with two seeds, and two kinds of control, run for real."""
    folder = tmp_path_factory.mktemp("controlled")
    args = study_settings["stages"]["sft"]["args"] | {"learning_rate": 1e-2}
    stage = {"trainer": "sft", "rows": 16, "args": args}
    settings = study_settings | {
        "stages": {"sft": stage | {"data": "testbed:instructions"}, "math": stage | {"data": "testbed:arithmetic"}},
        "orderings": [["sft", "math"], ["math", "sft"]],
        "seeds": [0, 1],
        "controls": ["zero_learning_rate", "random_adapter"],
        "measure": {"max_tokens": 1000, "max_length": 48},
        "outcomes": {"items": 4, "plasticity": {"steps": 1, "every": 1, "batch_size": 2, "items": 2}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return Study.load(folder / "study.yaml", folder / "run").run()


@pytest.fixture(scope="module")
def data(results: Results) -> ReportData:
    return report_data(results, "controlled")


def test_runs_are_the_chains_that_are_no_controls(data: ReportData) -> None:
    assert [run.label for run in list_runs(data)] == [
        "sft > math, seed 0",
        "sft > math, seed 1",
        "math > sft, seed 0",
        "math > sft, seed 1",
    ]


def test_a_stage_is_compared_with_its_own_twin_and_its_own_start(results: Results, data: ReportData) -> None:
    def load(node: str) -> Geometry:
        return Geometry.load(results.store.part(node, "geometry") / "geometry")

    run = list_runs(data)[0]
    stage = run.stages[2]
    twin = results.plan.node(data.twins[stage.node])
    assert (twin.like, twin.parent) == (stage.node, run.stages[1].node)
    for metric, (convention, site) in CELLS.items():
        for node, against, reference in (
            (stage.node, "random_adapter", twin.id),
            (stage.node, "previous", run.stages[1].node),
            (twin.id, "previous", run.stages[1].node),
        ):
            table = compare(load(reference), load(node)).table
            row = table[(table["metric"] == metric) & (table["convention"] == convention) & (table["site"] == site)]
            found = data.changes.get(node, against, metric)
            assert found is not None
            assert (found.value, found.low, found.high) == tuple(row[["corrected", "low", "high"]].iloc[0])


def test_every_stage_of_every_run_has_its_yardsticks(data: ReportData) -> None:
    for run in list_runs(data):
        found = yardsticks(data, run)
        assert len(found) == 2 * len(CELLS)
        assert [said.partition(" changed")[0] for said in sentences(found)] == [stage.label for stage in run.stages[1:]]


def test_a_learning_rate_of_zero_changes_nothing_by_a_bit(data: ReportData) -> None:
    for run in list_runs(data):
        (said,) = zero_sentences(data, run)
        assert said.startswith(f"{run.stages[1].name}.zero: ")
        assert said.count("equal the base's bit for bit") == 2
        (control,) = data.controls[run.key]
        assert control.seed == run.seed


def test_overlaps_are_those_of_the_last_nodes_updates(results: Results, data: ReportData) -> None:
    for run in list_runs(data):
        (found,) = overlaps(run, run.rows(data.updates))
        first, second = run.stages[1:]
        stored = Updates.load(results.store.part(second.node, "updates") / "updates.parquet")
        assert found.excess.value == stored.value("update_excess_overlap", second.node, first.node)
        assert (found.earlier, found.later) == (first, second)


def test_ends_are_over_both_seeds(data: ReportData) -> None:
    found = overview(data, list_runs(data))
    assert [line.ordering for line in found.lines] == ["sft > math", "math > sft"]
    assert {"rank", "acc", "bwt", "ood_accuracy", "ood_loss", "plasticity"} <= {each.name for each in found.measures}
    assert {cell.remark for line in found.lines for cell in line.cells} == {"n = 2"}


@needs_chromium
def test_the_page_opens_and_every_run_is_drawn(data: ReportData, browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = write_report(data, tmp_path / "report.html")
    assert "r3|yardstick|effective_rank" in page_data(path.read_text())["figures"]
    show(browser, path)
    for button in browser.find_elements(By.CSS_SELECTOR, ".show-run"):
        browser.execute_script("arguments[0].click()", button)
        drawn = browser.execute_script(
            "return [...document.querySelectorAll('.figure')].filter(f => f.offsetParent).map(f => "
            "[f.dataset.figure, f.querySelectorAll('svg .point, svg .points path, svg .hm image').length])"
        )
        assert {key.split("|")[0] for key, _ in drawn} == {button.get_attribute("data-show")}
        assert all(count > 0 for _, count in drawn), drawn
        assert (
            len(drawn) == 2 + 2 + 1 + len(CELLS) + 1 + 2
        )  # geometry, scores, plasticity, yardsticks, updates, training
    assert errors(browser) == []
    assert [url for url in fetched(browser) if not url.startswith(("file:", "data:", "blob:"))] == []
