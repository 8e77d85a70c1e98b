from __future__ import annotations

from limberlm.report.study import ReportData, figures
from limberlm.report.study.data import Stage
from limberlm.report.style import STAGE_COLOURS, colour


def stages_of(study: ReportData) -> tuple[Stage, ...]:
    return study.runs[0].stages


def test_heatmap_cells_equal_the_table_and_gaps_stay_empty(study: ReportData) -> None:
    outcomes = study.outcomes[~((study.outcomes["task"] == "refusals") & (study.outcomes["stage"] == "dpo"))]
    figure = figures.accuracy_heatmap(outcomes, stages_of(study))
    assert figure is not None
    heatmap = figure.data[0]
    row = list(heatmap["y"]).index("refusals<br>in domain")
    assert list(heatmap["z"][row]) == [0.3, 0.42, None, 0.33]
    assert heatmap["customdata"][row][2] == "<b>dpo</b><br>refusals, in domain: not measured"


def test_plasticity_curves_are_in_step_order(study: ReportData) -> None:
    shuffled = study.outcomes.sample(frac=1, random_state=0)
    figure = figures.plasticity_curve(shuffled, stages_of(study), "codebook")
    assert [line["name"] for line in figure.data] == ["base", "sft", "dpo", "math"]
    assert list(figure.data[0]["x"]) == list(range(0, 61, 5))


def test_no_accuracy_and_no_loss_give_no_figure(study: ReportData) -> None:
    other = study.outcomes[study.outcomes["outcome"] == "aulc"]
    assert figures.accuracy_heatmap(other, stages_of(study)) is None
    assert figures.loss_by_stage(other, stages_of(study)) is None


def test_colour_and_dash_tell_stages_apart_beyond_the_palette() -> None:
    from limberlm.report.style import dash

    looks = {(colour(i), dash(i)) for i in range(1, 3 * len(STAGE_COLOURS) + 1)}
    assert len(looks) == 3 * len(STAGE_COLOURS)
