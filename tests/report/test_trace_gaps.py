"""Traces that are damaged, incomplete or no seeds of each other: said in one line, or shown as far as they go."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from limberlm.errors import UserError
from limberlm.report.trace import read_trace, render_trace, trace_report
from limberlm.report.trace.page import views
from limberlm.report.trace.sections import SECTIONS
from tests.report.synthetic_trace import STEPS
from tests.report.test_html import page_data
from tests.report.trace_text import FIGURES_OF, line, said, thinned, verdicts


def test_what_is_missing_is_said_and_the_rest_shown(chain_folder: Path, tmp_path: Path) -> None:
    folder = thinned(chain_folder, tmp_path / "part")
    for path in folder.iterdir():
        if path.name != "trace.parquet":
            path.unlink()
    text = render_trace([read_trace(folder)])
    shown = {key.split("|")[1] for key in page_data(text)["figures"]}
    assert shown == {"training", "head", "layers"}
    for section in SECTIONS:
        assert (section.empty in said(text)) == (section.key not in shown)
    assert verdicts(text) == ["No phases were sought in the stage pretraining."]
    assert len(page_data(text)["table"]["rows"]) == len(pd.read_parquet(folder / "trace.parquet"))


@pytest.mark.parametrize("missing", FIGURES_OF)
def test_one_missing_table_leaves_out_its_own_figures_alone(chain_folder: Path, tmp_path: Path, missing: str) -> None:
    folder = thinned(chain_folder, tmp_path / "part")
    (folder / missing).unlink()
    (view,) = views([read_trace(folder)])
    assert {section.key for section in SECTIONS if not section.make(view)} == {FIGURES_OF[missing]}


def test_a_rank_that_is_undefined_leaves_a_gap(chain_folder: Path, tmp_path: Path) -> None:
    folder = thinned(chain_folder, tmp_path / "gap", keep=STEPS)
    table = pd.read_parquet(folder / "trace.parquet")
    here = table["metric"].str.startswith("effective_rank") & (table["step"] == 35)
    table.loc[here, ["value", "low", "high", "std_error"]] = math.nan
    table.to_parquet(folder / "trace.parquet")
    drawn = line(page_data(render_trace([read_trace(folder)]))["figures"]["s0|training|0"], "effective rank")
    assert len(drawn["y"]) == len(STEPS) - 1


def broken(tmp_path: Path, source: Path, name: str, content: bytes | None) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(source, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trace.parquet", None, "trace.parquet: no such file; give a folder written by `limber trace`"),
        ("trace.parquet", b"not a table", "trace.parquet: cannot be read"),
        ("outcomes.parquet", b"PAR1", "outcomes.parquet: cannot be read"),
        ("phases.json", b"{", "phases.json: cannot be read"),
        ("phases.json", b"[1]", "phases.json: holds a list"),
        ("series.yaml", b"a: [", "series.yaml, line 1: not valid YAML"),
        ("series.yaml", b"\xff\xfe\x00", "series.yaml: cannot be read"),
    ],
)
def test_a_damaged_file_is_named(
    seed_folders: list[Path], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        trace_report(broken(tmp_path, seed_folders[0], name, content))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "broken" / "report.html").exists()


def changed(tmp_path: Path, source: Path, name: str, **columns: object) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(source, folder)
    table = pd.read_parquet(folder / name)
    table = table.drop(columns=[column for column, value in columns.items() if value is None])
    table.assign(**{c: v for c, v in columns.items() if v is not None}).to_parquet(folder / name)
    return folder


def test_a_table_without_a_column_is_named(seed_folders: list[Path], tmp_path: Path) -> None:
    folder = changed(tmp_path, seed_folders[0], "trace.parquet", depth=None)
    with pytest.raises(UserError, match=r"trace\.parquet: lacks the column depth"):
        trace_report(folder)


@pytest.mark.parametrize(
    ("columns", "message"), [({"stage": "sft"}, "shares no stage"), ({"convention": "rms"}, "trace the seeds in the")]
)
def test_traces_that_are_no_seeds_of_each_other_are_refused(
    seed_folders: list[Path], tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    other = changed(tmp_path, seed_folders[1], "trace.parquet", **columns)
    with pytest.raises(UserError, match=message):
        trace_report([seed_folders[0], other])


def test_no_folder_and_an_unwritable_target_are_told_in_one_line(seed_folders: Sequence[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder given"):
        trace_report([])
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        trace_report(seed_folders[0], tmp_path / "nowhere" / "report.html")


def test_a_trace_of_one_checkpoint_is_reported(tmp_path: Path, seed_folders: list[Path]) -> None:
    folder = tmp_path / "single"
    shutil.copytree(seed_folders[0], folder)
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path)
        table[table["step"] == 0].to_parquet(path)
    (folder / "phases.json").unlink()
    text = render_trace([read_trace(folder)])
    assert line(page_data(text)["figures"]["s0|training|0"], "effective rank")["y"]
