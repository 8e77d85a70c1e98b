from __future__ import annotations

import math

import pytest

from limberlm.report import ReportData, figures
from limberlm.report.data import Stage, list_runs
from limberlm.report.style import STAGE_COLOURS, colour


def rows_of(study: ReportData, metric: str, convention: str = "rms"):
    frame = study.geometry
    return frame[(frame["metric"] == metric) & (frame["convention"] == convention)]


def stages_of(study: ReportData) -> tuple[Stage, ...]:
    return list_runs(study)[0].stages


def named(figure, name: str):
    return [trace for trace in figure.data if trace.name == name]


def test_a_line_per_stage_with_the_values_of_the_table(study: ReportData) -> None:
    frame = rows_of(study, "effective_rank_corrected")
    figure = figures.geometry_by_depth(frame, stages_of(study), "effective_rank_corrected")
    for stage in ("base", "sft", "dpo", "math"):
        blocks, final = named(figure, stage)
        own = frame[(frame["stage"] == stage) & ~frame["site"].isin(["band", "final_norm"])].sort_values("depth")
        assert list(blocks.y) == own["value"].tolist()
        assert list(blocks.x) == own["depth"].tolist()
        assert list(final.y) == frame.loc[(frame["stage"] == stage) & (frame["site"] == "final_norm"), "value"].tolist()


def test_ribbons_run_from_low_to_high(study: ReportData) -> None:
    frame = rows_of(study, "rankme_corrected")
    figure = figures.geometry_by_depth(frame, stages_of(study), "rankme_corrected")
    ribbons = [trace for trace in figure.data if trace.fill == "toself"]
    assert len(ribbons) == 4
    own = frame[(frame["stage"] == "base") & ~frame["site"].isin(["band", "final_norm"])].sort_values("depth")
    assert list(ribbons[0].y) == own["high"].tolist() + own["low"].tolist()[::-1]


def test_the_null_value_is_a_dashed_line(study: ReportData) -> None:
    figure = figures.geometry_by_depth(rows_of(study, "rankme"), stages_of(study), "rankme")
    (null,) = [trace for trace in figure.data if str(trace.name).startswith("null value")]
    assert null.line.dash == "dash"
    assert set(null.y) == {255.8}


def test_a_metric_without_null_value_has_no_such_line(study: ReportData) -> None:
    figure = figures.geometry_by_depth(rows_of(study, "massive_tokens", "raw"), stages_of(study), "massive_tokens")
    assert not [trace for trace in figure.data if str(trace.name).startswith("null value")]


def test_intervals_are_drawn_where_they_are_even_beside_the_value(study: ReportData) -> None:
    frame = rows_of(study, "effective_rank")
    band = frame[frame["site"] == "band"]
    assert (band["value"] < band["low"]).any() or (band["value"] < band["low"] * 1.02).all()
    figure = figures.geometry_by_stage(frame, stages_of(study), "effective_rank")
    bars = [trace for trace in figure.data if trace.marker.symbol == "line-ew-open" and trace.hoverinfo == "skip"]
    ends = [[y for y in trace.y if y is not None and not math.isnan(y)] for trace in bars]
    assert ends == band[["low", "high"]].to_numpy().tolist()


def test_by_stage_falls_back_to_the_final_norm(study: ReportData) -> None:
    frame = rows_of(study, "rankme", "last")
    figure = figures.geometry_by_stage(frame, stages_of(study), "rankme")
    assert list(figure.data[-1].y) == frame["value"].tolist()


@pytest.mark.parametrize(("metric", "kind"), [("stable_rank", "log"), ("anisotropy", None)])
def test_ranks_over_a_wide_range_get_round_logarithmic_ticks(study: ReportData, metric: str, kind) -> None:
    axis = figures.geometry_by_depth(rows_of(study, metric), stages_of(study), metric).layout.yaxis
    assert axis.type == kind
    assert kind is None or {"10", "100"} <= set(axis.ticktext)


def test_axes_name_their_unit(study: ReportData) -> None:
    figure = figures.geometry_by_depth(rows_of(study, "rankme"), stages_of(study), "rankme")
    assert figure.layout.yaxis.title.text == "RankMe<br>(directions)"
    assert "share of blocks" in figure.layout.xaxis.title.text


def test_heatmap_cells_equal_the_table_and_gaps_stay_empty(study: ReportData) -> None:
    outcomes = study.outcomes[~((study.outcomes["task"] == "refusals") & (study.outcomes["stage"] == "dpo"))]
    figure = figures.accuracy_heatmap(outcomes, stages_of(study))
    assert figure is not None
    heatmap = figure.data[0]
    row = list(heatmap.y).index("refusals<br>in domain")
    assert list(heatmap.z[row]) == [0.3, 0.42, None, 0.33]
    assert heatmap.customdata[row][2] == "<b>dpo</b><br>refusals, in domain: not measured"


def test_plasticity_curves_are_in_step_order(study: ReportData) -> None:
    shuffled = study.outcomes.sample(frac=1, random_state=0)
    figure = figures.plasticity_curve(shuffled, stages_of(study), "codebook")
    assert [trace.name for trace in figure.data] == ["base", "sft", "dpo", "math"]
    assert list(figure.data[0].x) == list(range(0, 61, 5))


def test_no_accuracy_and_no_loss_give_no_figure(study: ReportData) -> None:
    other = study.outcomes[study.outcomes["outcome"] == "aulc"]
    assert figures.accuracy_heatmap(other, stages_of(study)) is None
    assert figures.loss_by_stage(other, stages_of(study)) is None


def test_colour_and_dash_tell_stages_apart_beyond_the_palette() -> None:
    from limberlm.report.style import dash

    looks = {(colour(i), dash(i)) for i in range(1, 3 * len(STAGE_COLOURS) + 1)}
    assert len(looks) == 3 * len(STAGE_COLOURS)
