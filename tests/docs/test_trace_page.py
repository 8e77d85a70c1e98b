"""Figures of stored traces show what the traces hold, and can be read by everybody."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
import trace_page
import yaml

from limberlm.errors import UserError
from limberlm.report.trace import read_trace
from limberlm.report.trace.sections import PANELS
from tests.report.synthetic_trace import STEPS, TOKENS_PER_STEP, write_trace

SPACE = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two traces as made, and as stored for the pages."""
    root = tmp_path_factory.mktemp("traces")
    for seed, name in enumerate(("one", "two")):
        made = write_trace(root / "made" / name, name=name, seed=seed, stages=("sft", "rlvr"))
        content = yaml.safe_load((made / "series.yaml").read_text())
        content["checkpoints"] = [{"path": "/somewhere/runs/base"}]
        (made / "series.yaml").write_text(yaml.safe_dump(content))
        trace_page.store(made, root / "stored" / name)
    return root


@pytest.fixture(autouse=True)
def stored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_page, "TRACES", root / "stored")


def svg_of(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + len("</svg>")])


def ranks(root: Path) -> pd.DataFrame:
    table = read_trace(root / "stored" / "one").geometry
    here = (table["metric"] == "effective_rank_corrected") & (table["convention"] == "last")
    return table[here & (table["stage"] == "pretraining")].sort_values("step")


@pytest.mark.parametrize("kind", [*PANELS, "stages"])
def test_every_figure_can_be_drawn_from_what_is_stored(root: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    drawn = trace_page.figure(("one",), kind)
    svg = svg_of(drawn)
    assert svg.get("role") == "img"
    title, desc = svg.find(f"{SPACE}title"), svg.find(f"{SPACE}desc")
    assert title is not None
    assert desc is not None
    assert svg.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert len(desc.text or "") > 60
    assert "<script" not in drawn
    assert "<figcaption>" in drawn
    monkeypatch.setattr(trace_page, "TRACES", root / "made")
    assert trace_page.figure(("one",), kind) == drawn


def test_points_stand_where_their_values_are_and_tell_them(root: Path) -> None:
    svg, rows = svg_of(trace_page.figure(("one",), "geometry")), ranks(root)
    points = [each for each in svg.iter(f"{SPACE}circle")][: len(rows)]
    assert [float(point.get("data-value", "nan")) for point in points] == pytest.approx(
        rows["value"].tolist(), rel=1e-9
    )
    # a logarithmic axis: height is linear in the logarithm; and x is linear in log(t + smallest t)
    for coordinate, values in (
        ("cy", [math.log(value) for value in rows["value"]]),
        ("cx", [math.log((step + 1) * TOKENS_PER_STEP) for step in STEPS]),
    ):
        places = [float(point.get(coordinate, "nan")) for point in points]
        low, high = values.index(min(values)), values.index(max(values))
        slope = (places[high] - places[low]) / (values[high] - values[low])
        assert places == pytest.approx([places[low] + slope * (value - values[low]) for value in values], abs=0.11)
    for point, row in zip(points, rows.to_dict("records"), strict=True):
        tooltip = point.find(f"{SPACE}title")
        assert tooltip is not None
        assert f"step {row['step']:,}" in (tooltip.text or "")
        assert "95 % interval" in (tooltip.text or "")


def test_phases_are_shaded_and_turning_points_marked(root: Path) -> None:
    found = read_trace(root / "stored" / "one").phases["stages"]["pretraining"]
    svg = svg_of(trace_page.figure(("one",), "geometry"))
    turns = [path for path in svg.iter(f"{SPACE}path") if path.get("class") == "turn"]
    assert len(turns) == len(found["turns"]) + len(found["alpha_turns"])
    shades = [rect for rect in svg.iter(f"{SPACE}rect") if float(rect.get("height", 0)) > 100]
    assert len(shades) == 3 * (len(found["swings"]) + len(found["turns"]))
    names = [text.text for text in svg.iter(f"{SPACE}text")]
    assert {"warmup ↗", "warmup ↘", "entropy-seeking ↗", "end of learning-rate warmup (step 40)"} <= set(names)


def test_stages_are_drawn_side_by_side_and_what_they_did_is_listed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    svg = svg_of(trace_page.figure(("one",), "stages"))
    table = read_trace(root / "stored" / "one").geometry
    here = (table["metric"] == "effective_rank_corrected") & (table["convention"] == "last")
    after = table[here & (table["stage"] != "pretraining")]["value"].tolist()
    points = [float(point.get("data-value", "nan")) for point in svg.iter(f"{SPACE}circle")]
    assert points[: 1 + len(after)] == pytest.approx([ranks(root)["value"].iloc[-1], *after], rel=1e-9)
    assert {"pretraining", "sft 120", "rlvr 120"} <= {text.text for text in svg.iter(f"{SPACE}text")}
    shutil.copytree(root / "stored" / "one", tmp_path / "told")
    directions = {"directions": {"sft": {"word": "expands", "sentence": "Expands: by <a lot>."}}}
    (tmp_path / "told" / "phases.json").write_text(json.dumps(directions))
    monkeypatch.setattr(trace_page, "TRACES", tmp_path)
    assert trace_page.fill("<!-- trace told directions -->") == "- `sft`: Expands: by &lt;a lot&gt;."


def test_seeds_share_a_figure_with_their_mean_thick() -> None:
    svg = svg_of(trace_page.figure(("one", "two"), "geometry"))
    lines = [line for line in svg.iter(f"{SPACE}polyline") if line.get("class") == "line"]
    assert [line.get("stroke-width") for line in lines] == ["1", "1", "3"] * 3


def test_a_page_has_its_marks_replaced_and_nothing_else() -> None:
    page = "# Traces\n\n<!-- trace one geometry -->\n\nText <!-- a comment -->\n\n<!-- trace one+two verdict -->\n"
    filled = trace_page.fill(page)
    assert filled.startswith('# Traces\n\n<figure class="response"')
    assert "Text <!-- a comment -->" in filled
    assert "**Both seeds show rise, fall, rise" in filled
    assert not re.search("<!-- trace", filled)


def test_what_is_stored_is_small_and_tells_nothing_of_where_it_was_made(root: Path) -> None:
    sizes = {kind: sum(path.stat().st_size for path in (root / kind / "one").iterdir()) for kind in ("made", "stored")}
    assert sizes["stored"] < sizes["made"] / 2
    assert "somewhere" not in "".join(path.read_text() for path in (root / "stored" / "one").glob("*.yaml"))
    for path in (root / "stored" / "one").glob("*.parquet"):
        assert not {"replicates", "items"} & set(pd.read_parquet(path).columns)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("<!-- trace none geometry -->", "no such file"),
        ("<!-- trace one geometri -->", 'did you mean "geometry"'),
    ],
)
def test_a_mark_that_names_nothing_is_refused(mark: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trace_page.fill(mark)
