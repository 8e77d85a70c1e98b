"""The report of a real study with orderings, seeds and controls."""

from __future__ import annotations

import pytest

from limberlm.geometry import CATALOG, HEADLINE
from limberlm.observe import Geometry, compare
from limberlm.observe.table.geometry import headline_site
from limberlm.observe.updates.measurement import Updates
from limberlm.report.study import ReportData
from limberlm.report.study.overview import overview
from limberlm.report.study.updates import overlaps
from limberlm.report.study.yardsticks import sentences, yardsticks, zero_sentences
from limberlm.study import Results

pytestmark = pytest.mark.slow


def test_runs_are_the_chains_that_are_no_controls(controlled: ReportData) -> None:
    assert [run.label for run in controlled.runs] == [
        "sft > math, seed 0",
        "sft > math, seed 1",
        "math > sft, seed 0",
        "math > sft, seed 1",
    ]


def test_a_stage_is_compared_with_its_own_twin_and_its_own_start(
    controlled_results: Results, controlled: ReportData
) -> None:
    def load(node: str) -> Geometry:
        return Geometry.load(controlled_results.store.part(node, "geometry") / "geometry")

    run = controlled.runs[0]
    stage = run.stages[2]
    twin = controlled_results.plan.node(controlled.twins[stage.node])
    assert (twin.like, twin.parent) == (stage.node, run.stages[1].node)
    for metric in HEADLINE:
        convention, site = CATALOG[metric].conventions[0], headline_site(CATALOG[metric])
        for node, against, reference in (
            (stage.node, "random_adapter", twin.id),
            (stage.node, "previous", run.stages[1].node),
            (twin.id, "previous", run.stages[1].node),
        ):
            table = compare(load(reference), load(node)).table
            row = table[(table["metric"] == metric) & (table["convention"] == convention) & (table["site"] == site)]
            found = controlled.changes.get(node, against, metric)
            assert found is not None
            assert (found.value, found.low, found.high) == tuple(row[["corrected", "low", "high"]].iloc[0])


def test_every_stage_of_every_run_has_its_yardsticks(controlled: ReportData) -> None:
    for run in controlled.runs:
        found = yardsticks(controlled, run)
        assert len(found) == 2 * len(HEADLINE)
        assert [said.partition(" changed")[0] for said in sentences(found)] == [stage.label for stage in run.stages[1:]]


def test_a_learning_rate_of_zero_changes_nothing_by_a_bit(controlled: ReportData) -> None:
    for run in controlled.runs:
        (said,) = zero_sentences(controlled, run)
        assert said.startswith(f"{run.stages[1].name}.zero: ")
        assert said.count("equal the base's bit for bit") == 2
        (control,) = controlled.controls[run.key]
        assert control.seed == run.seed


def test_overlaps_are_those_of_the_last_nodes_updates(controlled_results: Results, controlled: ReportData) -> None:
    for run in controlled.runs:
        (found,) = overlaps(run, controlled.rows("updates", run.key))
        first, second = run.stages[1:]
        stored = Updates.load(controlled_results.store.part(second.node, "updates") / "updates.parquet")
        assert found.excess.value == stored.value("update_excess_overlap", second.node, first.node)
        assert (found.earlier, found.later) == (first, second)


def test_ends_are_over_both_seeds(controlled: ReportData) -> None:
    found = overview(controlled)
    assert [line.ordering for line in found.lines] == ["sft > math", "math > sft"]
    assert {"rank", "acc", "bwt", "ood_accuracy", "ood_loss", "plasticity"} <= {each.name for each in found.measures}
    assert {cell.remark for line in found.lines for cell in line.cells} == {"n = 2"}
