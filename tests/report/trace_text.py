"""What a reader of a trace's report sees, taken out of its HTML."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from html import unescape
from pathlib import Path

import pandas as pd

from limberlm.report.trace import Trace
from tests.report.test_html import Page

FIGURES_OF = {
    "outcomes.parquet": "downstream",
    "memorization.parquet": "memorization",
    "spectra.parquet": "spectra",
    "ablation.parquet": "ablation",
}
"""The section that each table has to itself."""


def said(text: str) -> str:
    """What a reader sees, on one line."""
    return " ".join("".join(Page(text).text).split())


def verdicts(text: str) -> list[str]:
    return [unescape(found) for found in re.findall(r'<p class="verdict"><b>(.*?)</b>', text)]


def rank_rows(trace: Trace, stage: str = "pretraining") -> pd.DataFrame:
    table = trace.geometry
    here = (table["metric"] == "effective_rank_corrected") & (table["convention"] == "last") & (table["stage"] == stage)
    return table[here].sort_values("step")


def thinned(source: Path, folder: Path, keep: Sequence[int] = (0, 10, 35, 230, 1000)) -> Path:
    """A copy with some of the pretraining's checkpoints: quick to render."""
    shutil.copytree(source, folder)
    for path in folder.glob("*.parquet"):
        table = pd.read_parquet(path)
        table[(table["stage"] == "pretraining") & table["step"].isin(keep)].reset_index(drop=True).to_parquet(path)
    return folder


def line(figure: dict, name: str) -> dict:
    (found,) = [part for part in figure["data"] if part.get("name") == name and part.get("customdata")]
    return found


def stage_cells(text: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    body = text[text.index('<section id="stages">') : text.index('<section id="numbers">')]
    for name, cells in re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', body, re.DOTALL):
        found[name] = [float(value) for value in re.findall(r'data-value="(.*?)"', cells)]
    return found
