"""The sections of a whole study, and two studies side by side, against planted effects."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from limberlm.analysis.arms import arms_table
from limberlm.errors import UserError
from limberlm.report.compare import compare_studies, render_comparison
from limberlm.report.compare.pairs import Side, lines, only, refusals
from limberlm.report.study import ReportData, render_report
from limberlm.report.study.dots import Dot, dots
from limberlm.report.study.orders import ordering_section
from limberlm.report.study.summary import summary
from limberlm.report.study.three_ways import helpful, three_ways
from tests.report.arms import chain_ends, with_arms
from tests.report.test_html import Page, page_data


def side(name: str = "one", base: str = "base-0", probe: str = "p", **ends: object) -> Side:
    return Side(name, base, probe, chain_ends(**ends))  # type: ignore[arg-type]


def said(text: str) -> str:
    return " ".join("".join(Page(text).text).split())


def test_an_arm_that_helps_is_recommended_only_if_it_keeps_the_target() -> None:
    assert helpful(arms_table(chain_ends())) == {"replay": True, "early": False}
    told = summary(chain_ends(), arms_table(chain_ends()), "").to_do
    assert told[0].startswith("Consider replay: future loss −0.295 nats")
    assert told[1].startswith("With care: early")
    assert "is not shown" in told[1]


def test_no_arm_that_helps_recommends_none() -> None:
    ends = chain_ends(arms=("none",)), chain_ends(arms=("none",)).assign(arm="same")
    both = pd.concat(ends)
    assert "recommends none" in " ".join(summary(both, arms_table(both), "").to_do)


def test_few_seeds_and_a_single_chain_are_said_plainly() -> None:
    one = chain_ends(arms=("none",), orderings=("math > code",), seeds=(0,))
    told = summary(one, pd.DataFrame(), "")
    assert all("without an interval" in sentence for sentence in told.changed)
    assert "Add seeds (1 now)" in told.to_do[0]


def test_nothing_finished_gives_its_reason_in_the_page() -> None:
    text = render_report(ReportData(title="part", why_no_ends="no chain is finished", why_no_prediction="no outcome"))
    assert "no chain is finished" in said(text)
    assert "That cannot be answered: no outcome." in said(text)


def test_the_three_figures_hold_the_table_and_nothing_finite_is_cut_off() -> None:
    table = arms_table(chain_ends())
    for picture, name in zip(three_ways(table).pictures, ("effective_rank", "target_kept", "future_loss"), strict=True):
        own = table[table["quantity"] == name].set_index("arm")
        drawn = {
            y: x
            for trace in picture.figure.data
            for x, y in zip(trace["x"], trace["y"], strict=True)
            if y and "customdata" in trace
        }
        assert drawn == own["effect"].to_dict()
        low, high = picture.figure.layout["xaxis"]["range"]
        assert low < own["effect"].min()
        assert own["effect"].max() < high


def test_an_interval_without_an_end_does_not_press_the_others_together() -> None:
    rows = [Dot("a", 1.0, -math.inf, math.inf), Dot("b", 1.2, 1.1, 1.3), Dot("c", 0.9, -40.0, 70.0)]
    low, high = dots(rows, "x", 1.0, {"plain": "all"}).layout["xaxis"]["range"]
    assert high - low < 3


def test_a_planted_order_is_found_and_one_ordering_is_no_section() -> None:
    ends = chain_ends(arms=("none",), seeds=tuple(range(8)))
    assert ordering_section(ends[ends["ordering"] == "math > code"]) is None
    planted = ends.assign(future_loss=ends["future_loss"] + 1.0 * (ends["ordering"] == "code > math"))
    section = ordering_section(planted)
    assert section is not None
    assert "difference found (p = 0.0078" in section.verdict[0]
    assert section.verdict[0].count("no difference") == 0
    text = render_report(dataclasses.replace(ReportData(title="x"), ends=planted))
    assert "ordering|0" in page_data(text)["figures"]


def test_names_of_arms_are_escaped_in_every_section() -> None:
    hostile = "<script>window.hacked=1</script>"
    text = render_report(with_arms(ReportData(title="x"), chain_ends(arms=("none", hostile))))
    assert hostile not in text
    for figure in page_data(text)["figures"].values():
        assert "<script" not in str(figure)
    one = side(hostile, arms=("none", hostile))
    assert hostile not in render_comparison(one, one)


def test_a_planted_shift_between_studies_is_the_difference_in_every_pair() -> None:
    a, b = side("a"), side("b")
    b = dataclasses.replace(b, ends=b.ends.assign(future_loss=b.ends["future_loss"] + 0.25))
    found = [line for line in lines(a, b) if line.quantity.name == "future_loss"]
    assert len(found) == 3 * 3  # three arms: over all orderings, and in each of two
    assert all(line.difference and np.isclose(line.difference["effect"], 0.25) for line in found)
    assert [line.difference["pairs"] for line in found if line.difference][:3] == [6, 3, 3]
    none = [line for line in lines(a, b) if line.quantity.name == "earlier_loss"]
    assert all(line.difference and line.difference["effect"] == 0 for line in none)


def test_no_difference_is_taken_over_another_base_probe_or_protocol() -> None:
    a = side()
    assert set(refusals(a, side(base="other")).values()) == {"they start from different bases"}
    assert list(refusals(a, side(probe="q"))) == ["effective_rank"]
    other = dataclasses.replace(a, ends=a.ends.assign(base_future_loss=1.9))
    assert list(refusals(a, other)) == ["future_loss"]
    assert refusals(a, side("two")) == {}
    text = render_comparison(a, side("two", base="other"))
    assert "no difference is taken" in said(text)
    assert page_data(text)["figures"] == {}


def test_chains_that_one_study_alone_has_are_named() -> None:
    a, b = side(arms=("none", "replay")), side("two", arms=("none",))
    assert only(a, b) == ["code > math [replay]", "math > code [replay]"]
    assert only(b, a) == []
    apart = render_comparison(side(orderings=("math > code",)), side("two", orderings=("code > math",)))
    assert "nothing to set side by side" in said(apart)


def test_a_study_is_not_compared_with_itself(tmp_path) -> None:
    with pytest.raises(UserError, match="the same study twice"):
        compare_studies(tmp_path, tmp_path / ".", tmp_path / "x.html")
