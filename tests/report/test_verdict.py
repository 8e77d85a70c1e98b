from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from limberlm.report.study import ReportData
from limberlm.report.study.data import Run
from limberlm.report.study.headline import headline_rows, outcomes_sentence
from limberlm.report.study.verdict import findings, seeds_sentence, summary


def changed(study: ReportData, **values: float) -> tuple[ReportData, Run]:
    """The study with every comparison set to the given values."""
    data = dataclasses.replace(study, comparisons=study.comparisons.assign(**values))
    return data, data.runs[0]


@pytest.mark.parametrize(
    ("corrected", "low", "high", "found", "words"),
    [
        (
            0.876,
            0.85,
            0.9,
            True,
            "down 12.4\xa0% (95\xa0% interval −15.0 to −10.0\xa0%, which excludes no change)",
        ),
        (
            1.062,
            1.01,
            1.117,
            True,
            "up 6.2\xa0% (95\xa0% interval +1.0 to +11.7\xa0%, which excludes no change)",
        ),
        (
            0.996,
            0.98,
            1.012,
            False,
            "no change found (−0.40\xa0%, 95\xa0% interval −2.0 to +1.2\xa0%, which includes no change)",
        ),
        (
            1.0,
            1.0,
            1.0,
            False,
            "no change found (0\xa0%, 95\xa0% interval 0 to 0\xa0%, which includes no change)",
        ),
        (0.9, math.nan, math.nan, None, "−10.0\xa0%, without an interval, so nothing can be concluded"),
        (math.nan, math.nan, math.nan, None, "no comparison with the base could be made"),
    ],
)
def test_words_follow_the_interval(study, corrected, low, high, found, words) -> None:
    data, run = changed(study, corrected=corrected, low=low, high=high)
    last = findings(run, data.changes)[-1]
    assert (last.found, last.text) == (found, words)


def test_only_the_headline_cell_decides(study: ReportData) -> None:
    frame = study.comparisons
    rows = frame[
        (frame["metric"] == "effective_rank")
        & (frame["site"] == "band")
        & (frame["convention"] == "rms")
        & (frame["against"] == "base")
    ]
    ratios = [finding.ratio for finding in findings(study.runs[0], study.changes)]
    assert ratios == rows.sort_values("stage_index")["corrected"].tolist()


def test_summary_says_where_the_chain_ended(study: ReportData) -> None:
    for ratio, half, sentence in (
        (0.8, 0.01, "Effective rank ended 20.0\xa0% below the base."),
        (1.25, 0.01, "Effective rank ended 25.0\xa0% above the base."),
        (1.01, 0.05, "After the last stage, math, no change of effective rank from the base was found."),
    ):
        data, run = changed(study, corrected=ratio, low=ratio - half, high=ratio + half)
        assert summary(findings(run, data.changes)) == sentence


def test_seeds_are_set_side_by_side(study: ReportData, many: ReportData) -> None:
    runs = many.runs
    said = seeds_sentence(runs[0], runs, many.changes)
    assert said.startswith("Over training seeds, the change from base after the last stage is −")
    assert "(seed 0)" in said
    assert "(seed 1)" in said
    runs = study.runs
    assert seeds_sentence(runs[0], runs, study.changes) == "This chain was trained with one seed only."


def test_outcomes_are_told_in_words(study: ReportData) -> None:
    rows = headline_rows(study, study.runs[0])
    said = outcomes_sentence(rows)
    assert "accuracy on earlier tasks is 19.0 points below its value right after their stages" in said
    assert f"ends at a loss of {rows[-1].cells[8].text} nats per token, against {rows[0].cells[8].text}" in said


def test_real_data_without_accuracy_show_their_loss(study: ReportData) -> None:
    outcomes = study.outcomes[study.outcomes["outcome"] == "loss"]
    kept = outcomes[outcomes["stage"] == "math"].head(1).assign(outcome="retention_loss", value=0.25)
    data = dataclasses.replace(study, outcomes=pd.concat([outcomes, kept]), targets={"math": "arithmetic"})
    last = headline_rows(data, data.runs[0])[-1]
    assert (last.cells[5].value, last.cells[5].text) == (1.2, "1.200 nats")
    assert (last.cells[6].value, last.cells[6].text) == (0.25, "+0.2500 nats")


def test_a_repeated_stage_gets_its_own_label() -> None:
    from tests.report.synthetic import build

    data = build(chains=(("twice", ("base", "math", "math")),))
    assert [stage.label for stage in data.runs[0].stages] == ["base", "math", "math (2)"]
