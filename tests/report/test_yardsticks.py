from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from limberlm.report.study import ReportData, render_report
from limberlm.report.study.data import Control
from limberlm.report.study.yardsticks import end_table, sentences, yardsticks, zero_sentences
from tests.report.controlled import Change, beside_its_twin, comparison, with_zero
from tests.report.test_html import Page, opened

UP, UP_MORE, DOWN = (1.012, 1.009, 1.015), (1.03, 1.02, 1.04), (0.98, 0.97, 0.99)
NONE: Change = (0.999, 0.998, 1.0)
UNKNOWN: Change = (1.2, math.nan, math.nan)


@pytest.mark.parametrize(
    ("trained", "random", "difference", "judgement"),
    [
        (UP, NONE, UP, "the change is the training's, not its size's"),
        (UP, DOWN, UP_MORE, "the change is the training's, not its size's"),
        (UP, UP, NONE, "it cannot be told from an update of the same size"),
        (NONE, NONE, NONE, "it cannot be told from an update of the same size"),
        (NONE, DOWN, UP, "training left it where an update of the same size would have moved it"),
        (UP_MORE, UP, UP, "more than its size alone would have changed"),
        (UP, UP_MORE, DOWN, "less than its size alone would have changed"),
        (UP, NONE, UNKNOWN, "without intervals, so nothing can be concluded"),
    ],
)
def test_words_follow_the_three_intervals(trained: Change, random: Change, difference: Change, judgement: str) -> None:
    data = beside_its_twin(trained, random, difference)
    (said,) = sentences(yardsticks(data, data.runs[0]))
    assert said.endswith(f": {judgement}.")


def test_the_sentence_gives_both_changes_with_their_intervals() -> None:
    data = beside_its_twin((1.012, 1.009, 1.015), (0.999, 0.998, 1.0), (1.013, 1.01, 1.016))
    (said,) = sentences(yardsticks(data, data.runs[0]))
    assert said.replace("\u00a0", " ") == (
        "sft changed the effective rank by +1.2 % (+0.90 to +1.5); an update of the same size in random directions by "
        "−0.10 % (−0.20 to 0): the change is the training's, not its size's."
    )


def test_a_difference_metric_is_judged_about_zero() -> None:
    data = beside_its_twin((-0.03, -0.04, -0.02), (0.001, -0.01, 0.01), (-0.031, -0.04, -0.02), "anisotropy")
    (found,) = yardsticks(data, data.runs[0])
    assert found.sentence.endswith("the change is the training's, not its size's.")
    assert [cell.value for cell in found.cells] == [-0.03, 0.001, -0.031]
    assert [cell.remark for cell in found.cells] == ["", "no change found", ""]


def test_the_change_is_taken_from_where_the_stage_started() -> None:
    data = beside_its_twin(UP, NONE, UP)
    later = data.comparisons.assign(stage_index=2)
    outcomes = data.outcomes.assign(stage_index=data.outcomes["stage_index"] * 2)
    assert yardsticks(data, data.runs[0])
    from_base = dataclasses.replace(data, comparisons=later, outcomes=outcomes)
    assert not yardsticks(from_base, from_base.runs[0]), "a second stage starts from the first, not from the base"
    previous = dataclasses.replace(from_base, comparisons=later.replace({"against": {"base": "previous"}}))
    assert len(yardsticks(previous, previous.runs[0])) == 1


def test_a_stage_without_a_twin_or_a_comparison_has_no_yardstick(study: ReportData) -> None:
    assert yardsticks(study, study.runs[0]) == []
    data = beside_its_twin(UP, NONE, UP)
    missing = dataclasses.replace(data, comparisons=data.comparisons[data.comparisons["against"] == "base"])
    assert yardsticks(missing, missing.runs[0]) == []


def test_zero_rate_is_equal_bit_for_bit_or_names_what_is_not() -> None:
    data = with_zero()
    (run,) = data.runs
    assert zero_sentences(data, run) == [
        "sft.zero: the whole stage at a learning rate of zero: all 6 geometry values equal the base's bit for bit."
    ]
    one_bit = with_zero({"anisotropy": 2.0**-50})
    (said,) = zero_sentences(one_bit, one_bit.runs[0])
    assert said.endswith("2 of 6 geometry values differ from the base's: anisotropy.")


def test_a_replicate_that_moved_is_a_difference_too() -> None:
    data = with_zero()
    geometry = data.geometry.copy()
    at = geometry.index[(geometry["node"] == "sft.zero-1") & (geometry["metric"] == "rankme")][0]
    geometry.at[at, "replicates"] = [x + 1e-12 for x in geometry.at[at, "replicates"]]
    moved = dataclasses.replace(data, geometry=geometry)
    assert "1 of 6 geometry values differ from the base's: rankme" in zero_sentences(moved, moved.runs[0])[0]


def test_controls_are_no_runs_of_their_own() -> None:
    assert [run.label for run in with_zero().runs] == ["sft > math, seed 0"]


def test_no_table_of_ends_without_other_controls() -> None:
    data = with_zero()
    assert end_table(data, data.runs[0]) is None


def test_the_section_is_there_only_where_a_control_was_run(small: ReportData) -> None:
    assert 'id="yardsticks"' not in render_report(small)
    text = render_report(beside_its_twin(UP, NONE, UP))
    assert 'id="yardsticks"' in text
    assert "the change is the training&#39;s, not its size&#39;s" in text
    cells = Page(text).cells(section="yardsticks")
    assert cells == [UP[0], NONE[0], UP[0]]


def test_an_arm_without_controls_says_whose_they_are() -> None:
    data = beside_its_twin(UP, NONE, UP)
    slow = data.outcomes.assign(
        chain="sft > math [slow]", arm="slow", node=data.outcomes["node"].replace("sft-1", "sft-2")
    )
    both = dataclasses.replace(data, outcomes=pd.concat([data.outcomes, slow], ignore_index=True))
    said = " ".join("".join(Page(opened(render_report(both))).text).split())
    assert "No control was run for this chain: controls are those of the orderings without an intervention." in said


def test_other_controls_end_beside_the_chain_itself() -> None:
    data = beside_its_twin(UP, NONE, UP)
    name = "sft > sft [repeat]"
    again = data.outcomes.assign(chain=name, control="repeat", node=["base", "sft-9"], task="instructions", value=1.5)
    control = Control("repeat", name, 0, ("base", "sft-8", "sft-9"))
    comparisons = pd.concat([data.comparisons, pd.DataFrame([comparison("sft-9", "base", DOWN)])])
    whole = dataclasses.replace(
        data,
        outcomes=pd.concat([data.outcomes, again.assign(split="out_of_domain")], ignore_index=True),
        comparisons=comparisons,
        controls={("sft > math", 0): (control,)},
    )
    table = end_table(whole, whole.runs[0])
    assert table is not None
    assert [name for name, _, _ in table.rows] == ["sft > math", name]
    assert [measure.name for measure in table.measures] == ["rank", "ood_loss"]
    own, repeated = (cells for _, _, cells in table.rows)
    assert own[0].value == UP[0]
    assert math.isnan(own[1].value)
    assert (repeated[0].value, repeated[1].value) == (DOWN[0], 1.5)
