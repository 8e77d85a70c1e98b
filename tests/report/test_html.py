from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from limberlm.errors import UserError
from limberlm.report.packing import Numbers, from_planes, packed, unpacked
from limberlm.report.study import ReportData, render_report, write_report
from limberlm.report.words import is_ratio
from tests.report.synthetic import build

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


class Page(HTMLParser):
    """What a browser would see: tags with attributes, table cells, visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            del self.inside[len(self.inside) - 1 - self.inside[::-1].index(tag) :]

    def handle_data(self, data):
        if "script" not in self.inside and "style" not in self.inside:
            self.text.append(data)

    def cells(self, run: str = "r0", section: str = "headline") -> list[float]:
        """Exact values of the tables that a section has of one run."""
        found, current, inside = [], None, None
        for tag, attributes in self.tags:
            inside = attributes.get("id", inside) if tag == "section" else inside
            current = attributes.get("data-run", current)
            if tag == "td" and "data-value" in attributes and (current, inside) == (run, section):
                found.append(float(attributes["data-value"] or "nan"))
        return found


def block(text: str, name: str) -> bytes:
    """What the page holds packed under a name."""
    found = re.search(f'<script type="application/gzip" id="page-{name}">(.*?)</script>', text, re.DOTALL)
    assert found
    return unpacked(found.group(1))


def page_data(text: str) -> dict:
    return json.loads(block(text, "data"))


def opened(text: str) -> str:
    """The page with all runs in their places, as a reader sees it who has looked at each."""
    kept = page_data(text)["kept"]

    def part(found: re.Match[str]) -> str:
        return ">" + "".join(kept["pieces"][piece] for piece in kept["parts"][int(found.group(1))])

    return re.sub(r' data-kept="(\d+)">', part, text)


@pytest.fixture(scope="module")
def text(study: ReportData) -> str:
    return render_report(study)


@pytest.fixture(scope="module")
def many_text(many: ReportData) -> str:
    return render_report(many)


def band_value(study: ReportData, metric: str, stage: str, convention: str = "rms") -> float:
    frame = study.geometry
    rows = frame[(frame["metric"] == metric) & (frame["site"] == "band") & (frame["convention"] == convention)]
    return float(rows.loc[rows["stage"] == stage, "value"].iloc[0])


def test_headline_numbers_equal_the_tables(study: ReportData, text: str) -> None:
    cells = Page(text).cells()
    rows = [cells[i : i + 9] for i in range(0, len(cells), 9)]
    assert len(rows) == 4
    outcomes = study.outcomes
    for stage, row in zip(("base", "sft", "dpo", "math"), rows, strict=True):
        own = outcomes[outcomes["stage"] == stage]
        assert row[0] == band_value(study, "effective_rank_corrected", stage)
        assert row[2] == band_value(study, "participation_ratio_debiased", stage)
        assert row[3] == band_value(study, "rankme_corrected", stage)
        assert row[4] == band_value(study, "anisotropy", stage, "raw")
        assert row[7] == pytest.approx(own.loc[own["outcome"] == "aulc", "value"].mean(), rel=1e-15)
        assert row[8] == pytest.approx(own.loc[own["outcome"] == "loss_after", "value"].mean(), rel=1e-15)
    frame = study.comparisons
    change = frame[
        (frame["metric"] == "effective_rank")
        & (frame["site"] == "band")
        & (frame["convention"] == "rms")
        & (frame["against"] == "base")
    ]
    assert [row[1] for row in rows[1:]] == change.sort_values("stage_index")["corrected"].tolist()
    assert math.isnan(rows[0][1])
    assert [row[5] for row in rows[1:]] == [0.71, 0.86, 0.62]
    assert [row[6] for row in rows[2:]] == [-0.02, -0.19]


def page_arrays(text: str) -> list[np.ndarray]:
    return from_planes(block(text, "numbers"), page_data(text)["arrays"])


def packed_rows(held: list[np.ndarray], table: dict, columns: dict) -> list[dict]:
    """The rows of one node's packed table: its cell, and its numbers by column."""
    places = [int(place) for place in held[columns["cells"]]] if "cells" in columns else None
    arrays = {name: held[number] for name, number in columns.items() if name != "cells"}
    cells = table["cells"] if places is None else [table["cells"][place] for place in places]
    return [{"cell": cell} | {name: array[i] for name, array in arrays.items()} for i, cell in enumerate(cells)]


def test_the_page_holds_every_metric_to_seven_digits(study: ReportData, text: str) -> None:
    data, numbers = page_data(text), page_arrays(text)
    for node, own in study.geometry.groupby("node"):
        rows = packed_rows(numbers, data["geometry"], data["geometry"]["nodes"][node])
        for name in ("value", "low", "high", "null_value", "n_tokens", "n_sequences"):
            held = {tuple(row["cell"][:3]): row[name] for row in rows}
            for key, value in own.set_index(["metric", "convention", "site"])[name].items():
                assert held[key] == np.float32(value) or math.isnan(value), (node, name, key)


def test_the_page_holds_every_comparison_to_seven_digits(study: ReportData, text: str) -> None:
    data, numbers = page_data(text), page_arrays(text)
    nodes = data["comparisons"]["nodes"]
    keys = ["node", "against", "metric", "convention", "site"]
    expected = study.comparisons.set_index(keys).to_dict("index")
    rows = {
        (node, against, *row["cell"][:3]): row
        for node, tables in nodes.items()
        for against, columns in tables.items()
        for row in packed_rows(numbers, data["comparisons"], columns)
    }
    assert set(rows) == set(expected)
    for key, row in rows.items():
        for name in ("a", "b", "corrected", "p_value", "p_adjusted"):
            assert row[name] == np.float32(expected[key][name]), (key, name)
        half, centre = float(row["half"]), float(row["corrected"])
        for name, sign in (("low", -1), ("high", 1)):
            end = centre * math.exp(sign * half) if is_ratio(key[2]) else centre + sign * half
            assert end == pytest.approx(expected[key][name], rel=3e-7, abs=3e-7 * half), (key, name)


def test_a_node_that_lacks_a_metric_lacks_it_in_the_page(small: ReportData) -> None:
    less = (small.geometry["stage"] == "dpo") & (small.geometry["metric"] == "rankme")
    text = render_report(dataclasses.replace(small, geometry=small.geometry[~less]))
    data, numbers = page_data(text), page_arrays(text)
    has = {
        node: {row["cell"][0] for row in packed_rows(numbers, data["geometry"], columns)}
        for node, columns in data["geometry"]["nodes"].items()
    }
    assert "rankme" in has["base"]
    assert "rankme" not in has["sft-dpo-0"]
    dpo = small.geometry[(small.geometry["stage"] == "dpo") & ~less]
    rows = packed_rows(numbers, data["geometry"], data["geometry"]["nodes"]["sft-dpo-0"])
    assert sorted(row["value"] for row in rows) == sorted(dpo["value"].astype("float32"))


def test_an_array_that_many_nodes_share_is_in_the_page_once(many_text: str) -> None:
    arrays = [array.tobytes() for array in page_arrays(many_text)]
    assert len(set(arrays)) == len(arrays)


@given(st.lists(st.lists(st.floats(width=32), min_size=1, max_size=9), min_size=1, max_size=5))
def test_packed_numbers_come_back(arrays: list[list[float]]) -> None:
    numbers = Numbers()
    places = [numbers.add(array) for array in arrays]
    back = from_planes(unpacked(packed(numbers.planes())), numbers.lengths)
    for place, array in zip(places, arrays, strict=True):
        assert np.array_equal(back[place], np.array(array), equal_nan=True)


def test_user_strings_are_escaped_everywhere() -> None:
    plain = build(chains=((HOSTILE, ("base", HOSTILE, "dpo")),), title=HOSTILE, metrics=("effective_rank",))
    outcomes = plain.outcomes.assign(task=HOSTILE)
    data = dataclasses.replace(
        plain,
        outcomes=outcomes,
        settings=HOSTILE,
        versions={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        targets={HOSTILE: HOSTILE},
    )
    text = render_report(data)
    own = opened(text)
    assert "<script>window" not in own
    assert "<img" not in own
    page = Page(own)
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert "".join(page.text).count(HOSTILE) >= 8
    for figure in page_data(text)["figures"].values():
        assert "<script" not in json.dumps(figure)


def test_nothing_is_fetched(text: str) -> None:
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert not re.match(r"\s*(https?:)?//", attributes.get(name) or ""), (tag, attributes)
        assert tag not in ("iframe", "object", "embed", "base")
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text


def test_plotly_is_inlined_once(text: str) -> None:
    assert block(text, "plotly").decode() == get_plotlyjs()
    assert len(text) < 3_500_000


def test_figures_carry_no_template_of_their_own(text: str) -> None:
    assert all("template" not in figure["layout"] for figure in page_data(text)["figures"].values())


def test_plotly_knows_every_property_of_the_figures(text: str) -> None:
    for figure in page_data(text)["figures"].values():
        go.Figure(figure)  # refuses what it does not know


def test_same_data_give_the_same_text(small: ReportData) -> None:
    assert render_report(small) == render_report(small)


def test_interval_sentence_is_printed(text: str) -> None:
    said = " ".join("".join(Page(text).text).split())
    assert "Each interval is over probe sequences for fixed checkpoints; it says nothing about training seeds." in said


def test_every_run_has_its_sections_and_one_is_shown(many_text: str) -> None:
    shown = [(a["data-run"], "hidden" in a) for _, a in Page(many_text).tags if "data-run" in a]
    assert {key for key, _ in shown} == {"r0", "r1", "r2", "r3"}
    assert all(hidden == (key != "r0") for key, hidden in shown)
    options = re.findall(r'<option value="r\d">(.*?)</option>', many_text)
    assert options == [
        "sft-dpo-math, seed 0",
        "sft-dpo-math, seed 1",
        "math first, seed 0",
        "math first, seed 1",
    ]


@pytest.mark.parametrize("kept", ["geometry", "outcomes", "training", "comparisons", "none"])
def test_missing_pieces_leave_a_readable_page(small: ReportData, kept: str) -> None:
    frames = {name: getattr(small, name) for name in ("geometry", "outcomes", "training", "comparisons")}
    text = render_report(ReportData(title="part", **{k: v for k, v in frames.items() if k == kept}))
    assert 'class="empty"' in text


def test_a_single_stage_is_reported_without_changes(small: ReportData) -> None:
    first = {name: getattr(small, name) for name in ("geometry", "outcomes", "training")}
    data = ReportData(title="one", **{name: frame[frame["stage"] == "base"] for name, frame in first.items()})
    assert "There is one checkpoint only" in render_report(data)


def test_nan_and_infinite_values_stay_valid_json(small: ReportData) -> None:
    geometry = small.geometry.copy()
    geometry.loc[geometry["stage"] == "dpo", ["value", "low", "high", "std_error", "null_value"]] = math.nan
    geometry.loc[(geometry["stage"] == "sft") & (geometry["site"] == "block.1"), "value"] = math.inf
    outcomes = small.outcomes.assign(low=math.nan, high=math.nan)
    outcomes.loc[outcomes["stage"] == "math", "value"] = math.nan
    comparisons = small.comparisons.assign(low=math.nan, high=math.nan, p_value=math.nan, p_adjusted=math.nan)
    comparisons.loc[comparisons["stage"] == "dpo", "corrected"] = math.nan
    text = render_report(dataclasses.replace(small, geometry=geometry, outcomes=outcomes, comparisons=comparisons))
    assert page_data(text)["figures"]
    said = " ".join("".join(Page(text).text).split())
    assert "without an interval, so nothing can be concluded" in said
    assert "no comparison with the base could be made" in said


def test_a_metric_the_catalog_does_not_know_is_still_shown(small: ReportData) -> None:
    geometry = pd.concat([small.geometry, small.geometry.query("metric == 'rankme'").assign(metric="new_thing")])
    assert ">New thing</option>" in render_report(dataclasses.replace(small, geometry=geometry))


def test_a_table_without_a_column_is_refused(study: ReportData) -> None:
    with pytest.raises(ValueError, match="the geometry table lacks the column site"):
        ReportData(title="x", geometry=study.geometry.drop(columns="site"))


def test_write_replaces_the_old_file_whole(small: ReportData, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    assert write_report(small, target) == target
    assert target.read_text("utf-8") == render_report(small)
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_failed_write_leaves_the_old_file_alone(
    small: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"report\.html: cannot be written \(the disk is full"):
        write_report(small, target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]
