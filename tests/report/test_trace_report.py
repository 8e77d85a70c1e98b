"""The report of a trace says what its tables hold, and says so where they hold nothing."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow.parquet as pq
import pytest

from limberlm.report.trace import Trace, read_trace, render_trace, trace_report
from limberlm.report.trace.memorization import rho_panel
from limberlm.report.trace.page import views
from tests.report.synthetic_trace import STEPS, TOKENS_PER_STEP
from tests.report.test_html import Page, page_data
from tests.report.trace_text import FIGURES_OF, line, rank_rows, said, stage_cells, verdicts

HOSTILE = "<img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def text(chain: Trace) -> str:
    return render_trace([chain])


@pytest.fixture(scope="module")
def seeds(seed_folders: list[Path]) -> list[Trace]:
    return [read_trace(folder) for folder in seed_folders]


def test_the_figure_holds_the_corrected_rank_of_every_checkpoint_with_its_interval(chain: Trace, text: str) -> None:
    figure, rows = page_data(text)["figures"]["s0|training|0"], rank_rows(chain)
    drawn = line(figure, "effective rank")
    assert drawn["y"] == rows["value"].tolist()
    band = next(part for part in figure["data"] if part.get("fill") == "toself")
    assert band["y"] == rows["high"].tolist() + rows["low"].tolist()[::-1]
    for (head, told), row in zip(drawn["customdata"], rows.to_dict("records"), strict=True):
        assert f"step {row['step']:,} (" in head
        assert f"{row['value']:.6g}"[:6] in told
        assert "95 % interval" in told
        assert "2,048 sequences" in told


def test_step_0_stays_on_the_logarithmic_axis(text: str) -> None:
    figure = page_data(text)["figures"]["s0|training|0"]
    x = line(figure, "effective rank")["x"]
    expected = np.log10(np.array(STEPS) * TOKENS_PER_STEP + TOKENS_PER_STEP)
    np.testing.assert_allclose(x, expected, rtol=1e-12)
    axis = figure["layout"]["xaxis"]
    assert axis["ticktext"][0] == "0"
    assert axis["tickvals"][0] == pytest.approx(x[0])
    assert axis["range"][0] < x[0] < x[-1] < axis["range"][1]


def test_phases_are_shaded_where_they_were_found_and_turning_points_marked(chain: Trace, text: str) -> None:
    found = chain.phases["stages"]["pretraining"]
    assert found["pattern"] == "R F R"
    figure = page_data(text)["figures"]["s0|training|0"]
    shades = [shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect"]
    place = lambda tokens: math.log10(tokens + TOKENS_PER_STEP)  # noqa: E731
    spans = [(place(swing["start"]), place(swing["end"])) for swing in found["swings"]]
    bounds = [(place(turn["low"]), place(turn["high"])) for turn in found["turns"]]
    np.testing.assert_allclose([(shape["x0"], shape["x1"]) for shape in shades], spans + bounds, rtol=1e-9)
    diamonds = [part for part in figure["data"] if (part.get("marker") or {}).get("symbol") == "diamond-open"]
    expected = [place(turn["step"]) for turn in [*found["turns"], *found["alpha_turns"]]]
    np.testing.assert_allclose([part["x"][0] for part in diamonds], expected, rtol=1e-9)
    assert all("95 % interval" in part["customdata"][0][1] for part in diamonds)
    named = [part["name"] for part in figure["data"] if part["x"] == [None]]
    assert named[:3] == ["warmup ↗", "warmup ↘", "entropy-seeking ↗"]


def test_the_end_of_warmup_is_a_line_at_its_step(text: str) -> None:
    figure = page_data(text)["figures"]["s0|training|0"]
    (event,) = [shape for shape in figure["layout"]["shapes"] if shape["type"] == "line"]
    assert event["x0"] == pytest.approx(math.log10(41 * TOKENS_PER_STEP))
    assert "end of learning-rate warmup (step 40)" in json.dumps(figure)


def test_the_verdict_comes_first_and_is_that_of_the_analysis(chain: Trace, text: str) -> None:
    first = verdicts(text)[0]
    assert first == chain.phases["stages"]["pretraining"]["verdict"]
    assert first.startswith("In this run:")
    assert text.index('<p class="verdict">') < text.index('class="figure"')
    assert "needs the same pattern in three seeds or more" in said(text)


def test_the_paper_s_word_for_the_effective_rank_stands_beside_it(text: str) -> None:
    figure = page_data(text)["figures"]["s0|training|0"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "Effective rank<br>(called RankMe in 2509.23024)"
    assert not re.search(r"\bRankMe\b(?! \(2509|.{0,3} in 2)", "".join(verdicts(text)))


def test_every_number_of_every_table_is_in_the_page(chain: Trace, text: str) -> None:
    table = page_data(text)["table"]
    count = sum(len(chain.tables[name]) for name in chain.tables if name != "spectra.parquet")
    assert len(table["rows"]) == count
    where = table["heads"].index("Value")
    shown = sorted(row[where] for row in table["rows"] if row[where] is not None)
    parts = [chain.tables[name]["value"] for name in chain.tables if name != "spectra.parquet"]
    assert shown == sorted(pd.concat(parts).dropna().tolist())
    for row in table["rows"]:
        assert all(0 <= place < len(names) for place, names in zip(row[:4], table["names"], strict=True))


def test_every_figure_has_words_for_those_who_do_not_see_it(text: str) -> None:
    figures = page_data(text)["figures"]
    told = {a["data-figure"]: a for _, a in Page(text).tags if "data-figure" in a}
    assert set(told) == set(figures)
    for key, attributes in told.items():
        assert attributes["role"] == "figure"
        assert len(attributes["aria-label"] or "") > 60, key
    label = told["s0|training|0"]["aria-label"] or ""
    assert "effective rank: " in label
    assert "Turning point of effective rank at" in label


def test_every_drawn_point_tells_its_value_when_pointed_at(text: str) -> None:
    for key, figure in page_data(text)["figures"].items():
        for part in figure["data"]:
            if part.get("hoverinfo") == "skip" or part["x"] == [None]:
                continue
            assert "customdata" in part, key
            assert "%{customdata" in part["hovertemplate"]


def test_stages_are_set_side_by_side_on_equal_widths(chain: Trace, text: str) -> None:
    drawn = line(page_data(text)["figures"]["c0|stages"], "effective rank")
    after = [rank_rows(chain, stage) for stage in ("sft", "dpo", "rlvr")]
    assert drawn["y"] == [rank_rows(chain)["value"].iloc[-1], *pd.concat(after)["value"]]
    x = np.array(drawn["x"])
    assert x[0] == 0
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(x[[4, 8, 12]], [1, 2, 3])


def test_what_a_stage_changed_is_the_paired_jackknife_of_its_ends(chain: Trace, text: str) -> None:
    rows = chain.heavy("trace.parquet", chain.geometry["metric"].eq("effective_rank"))
    rows = rows[rows["convention"] == "last"].set_index(["stage", "step"])
    start, end = rows.loc[("pretraining", 1000)], rows.loc[("sft", 120)]
    theta = math.log(end["value"]) - math.log(start["value"])
    left_out = np.array(end["replicates"]) - np.array(start["replicates"])
    pseudo = 16 * theta - 15 * left_out
    half = 2.131449545559323 * pseudo.std(ddof=1) / 4
    cells = stage_cells(text)["sft"]
    assert cells[0] == pytest.approx(math.exp(pseudo.mean()), rel=1e-12)
    assert math.exp(pseudo.mean() - half) > 1.02
    assert directions(text) == ["expands", "expands", "compresses"]


def test_pass_at_k_of_a_stage_is_paired_by_problem(chain: Trace, text: str) -> None:
    table = chain.heavy("outcomes.parquet", chain.tables["outcomes.parquet"]["outcome"].eq("pass@16"))
    table = table.set_index(["stage", "step"])
    change = np.subtract(table.loc[("rlvr", 120), "items"], table.loc[("dpo", 120), "items"])
    assert stage_cells(text)["rlvr"][5] == pytest.approx(change.mean(), rel=1e-12)


def directions(text: str) -> list[str]:
    return re.findall(r'<td data-value="nan">(expands|compresses|no change|inconclusive)<small', text)


@pytest.mark.parametrize(("count", "summary"), [(2, "Both seeds show rise, fall, rise"), (3, "All 3 seeds show")])
def test_seeds_that_agree_have_a_thick_mean(seeds: list[Trace], count: int, summary: str) -> None:
    text = render_trace(seeds[:count])
    (first,) = verdicts(text)
    assert first.startswith(summary)
    assert ("needs 3 seeds" in first) == (count < 3)
    figure = page_data(text)["figures"]["s0|training|0"]
    lines = [part for part in figure["data"] if part.get("name") == "effective rank"]
    thin, (mean,) = lines[:-1], lines[-1:]
    assert len(thin) == count
    assert mean["line"]["width"] > 2 * max(part["line"]["width"] for part in thin)
    np.testing.assert_allclose(mean["y"], np.exp(np.mean(np.log([part["y"] for part in thin]), axis=0)), rtol=1e-12)
    assert not [shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect"], "boundaries are not averaged"


def test_seeds_that_disagree_have_no_mean_and_no_claim(seeds: list[Trace]) -> None:
    text = render_trace([seeds[0], seeds[3]])
    (first,) = verdicts(text)
    assert "do not agree" in first
    assert "no phase is claimed" in first
    assert "odd: rise, fall, rise, fall" in first
    figure = page_data(text)["figures"]["s0|training|0"]
    assert len([part for part in figure["data"] if part.get("name") == "effective rank"]) == 2


def test_scores_stand_beside_chance_and_their_correlations_with_geometry(chain: Trace, text: str) -> None:
    figure = page_data(text)["figures"]["s0|downstream|0"]
    (level,) = [part for part in figure["data"] if "chance" in str(part.get("name"))]
    assert set(level["y"]) == {0.25}
    table = chain.tables["outcomes.parquet"]
    here = (table["outcome"] == "accuracy") & (table["task"] == "arithmetic") & (table["stage"] == "pretraining")
    scores = table[here].sort_values("step")["value"]
    expected = np.corrcoef(scores, rank_rows(chain)["value"])[0, 1]
    row = re.search(r"arithmetic, exact answers, with effective rank</th>\s*<td data-value=\"(.*?)\"", text)
    assert row is not None
    assert float(row[1]) == pytest.approx(expected, rel=1e-9)


def test_memorization_lines_are_the_rows_of_their_statistic(chain: Trace, text: str) -> None:
    table = chain.tables["memorization.parquet"]
    rows = table[(table["stage"] == "pretraining") & (table["task"] == "spans")]
    figures = page_data(text)["figures"]
    full = (rows["order"] == "inf") & (rows["zero"] == "floor") & (rows["stratum"] == "all")
    for name, statistic in (("given target length", "partial_rho"), ("plain, the paper's", "rho")):
        expected = rows[full & (rows["statistic"] == statistic)].sort_values("step")["value"].tolist()
        assert line(figures["s0|memorization|0"], name)["y"] == expected
    by_copies = figures["s0|memorization|3"]
    of_corpus = table[(table["stage"] == "pretraining") & (table["statistic"] == "log_probability")]
    once = of_corpus[(of_corpus["copies"] == 1).fillna(False)].sort_values("step")["value"].tolist()
    assert line(by_copies, "1 copy")["y"] == once
    assert next(part["name"] for part in by_copies["data"]) == "held out"


def test_the_rule_for_unseen_tokens_that_the_series_names_leads(chain: Trace) -> None:
    table = chain.tables["memorization.parquet"].copy()
    table.loc[table["zero"] == "drop", "value"] += 0.1
    settings = {**chain.series, "memorization": {"zero": "drop"}}
    (view, *_) = views([replace(chain, tables={**chain.tables, "memorization.parquet": table}, series=settings)])
    panel = rho_panel(view)
    rows = table[(table["stage"] == "pretraining") & (table["task"] == "spans") & (table["statistic"] == "rho")]
    expected = rows[rows["zero"] == "drop"].sort_values("step")["value"].tolist()
    (drawn,) = (line for line in panel.lines if line.name == "plain, the paper's")
    assert drawn.runs[0]["value"].tolist() == expected
    assert "drop" in panel.title


def test_ablation_is_averaged_over_tasks_and_draws(chain: Trace, text: str) -> None:
    table = chain.tables["ablation.parquet"]
    here = (table["action"] == "kept") & (table["directions"] == "random") & (table["k"] == 10)
    rows = table[here & (table["stage"] == "pretraining") & (table["mean"] == "kept")]
    expected = rows.groupby("step")["value"].mean().sort_index().tolist()
    drawn = line(page_data(text)["figures"]["s0|ablation|0"], "random directions alone")
    np.testing.assert_allclose(drawn["y"], expected, rtol=1e-12)
    assert all("mean of 3 draws" in told for _, told in drawn["customdata"])


def test_plotly_knows_every_property_of_the_figures(text: str) -> None:
    for figure in page_data(text)["figures"].values():
        go.Figure(figure)  # refuses what it does not know


def test_spectra_are_shares_at_five_checkpoints(text: str) -> None:
    figure = page_data(text)["figures"]["s0|spectra|0"]
    assert len(figure["data"]) == 5
    for part in figure["data"]:
        assert sum(part["y"]) == pytest.approx(1, abs=1e-9)
    assert (figure["layout"]["shapes"][0]["x0"], figure["layout"]["shapes"][0]["x1"]) == (12, 100)


def test_the_map_has_a_cell_for_every_site_and_checkpoint(chain: Trace, text: str) -> None:
    (heatmap,) = page_data(text)["figures"]["s0|layers|0"]["data"]
    assert heatmap["y"] == ["embedding", "block 0", "block 1", "block 2", "block 3", "final norm"]
    table = chain.geometry
    rows = table[(table["metric"] == "effective_rank_corrected") & (table["convention"] == "rms")]
    rows = rows[(rows["site"] == "block.2") & (rows["stage"] == "pretraining")].sort_values("step")
    np.testing.assert_allclose(heatmap["z"][3], np.log10(rows["value"]), rtol=1e-12)


def test_a_base_with_stages_but_no_pretraining_leads_with_the_stages(chain_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stages"
    shutil.copytree(chain_folder, folder)
    for name in FIGURES_OF:
        (folder / name).unlink()
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path)
        table = table[(table["stage"] != "pretraining") | (table["step"] == 1000)]
        table.assign(stage=table["stage"].replace("pretraining", "base")).to_parquet(path)
    trace = read_trace(folder)
    text = render_trace([trace])
    assert verdicts(text)[0] == "Stage by stage, sft expands; dpo expands; rlvr compresses."
    assert [view.stages[0].name for view in views([trace])] == ["sft", "dpo", "rlvr"]
    assert math.isfinite(stage_cells(text)["sft"][0])


def test_what_pandas_notes_in_a_table_is_not_needed(chain: Trace, chain_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "noted"
    shutil.copytree(chain_folder, folder)
    for path in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(path).replace_schema_metadata({b"pandas": b"{}"}), path)
    pd.testing.assert_frame_equal(read_trace(folder).geometry, chain.geometry)


def test_nothing_is_fetched_and_no_name_is_code(tmp_path: Path, seed_folders: list[Path]) -> None:
    folder = tmp_path / "hostile"
    shutil.copytree(seed_folders[0], folder)
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path)
        table["stage"] = HOSTILE
        if "task" in table:
            table["task"] = HOSTILE
        table.to_parquet(path)
    phases = json.loads((folder / "phases.json").read_text())
    record = phases["stages"]["pretraining"] | {"verdict": HOSTILE}
    record["swings"] = [swing | {"label": HOSTILE} for swing in record["swings"]]
    (folder / "phases.json").write_text(json.dumps({"stages": {HOSTILE: record}}))
    (folder / "series.yaml").write_text(json.dumps({"name": HOSTILE, "x": "step"}))
    own = render_trace([read_trace(folder)])
    page = Page(own)
    assert "<img" not in own
    assert "".join(page.text).count(HOSTILE) >= 3
    assert [tag for tag, _ in page.tags].count("script") == 4
    for figure in page_data(own)["figures"].values():
        assert "<img" not in json.dumps(figure)
    assert not re.search(r"url\(|@import|https?://", own)
    assert "default-src 'none'" in own
    assert [a for _, a in page.tags if {"src", "srcset", "action", "poster"} & set(a)] == []


def test_the_same_trace_gives_the_same_bytes(seed_folders: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(seed_folders[0], folder)
    first = trace_report(folder).read_bytes()
    assert trace_report(folder) == folder / "report.html"
    assert (folder / "report.html").read_bytes() == first


def test_several_seeds_are_written_beside_their_folders(seed_folders: list[Path], tmp_path: Path) -> None:
    for folder in seed_folders[:2]:
        shutil.copytree(folder, tmp_path / folder.name)
    written = trace_report([tmp_path / folder.name for folder in seed_folders[:2]])
    assert written == tmp_path / "report.html"
