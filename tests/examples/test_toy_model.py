"""The toy model's example can be run as it stands, prints both tables and writes a page that asks no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "toy_model.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("toy") / "new" / "folder"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1] / "src")},
    )
    return done.stdout, out / "toy_model.html"


def test_it_prints_the_golden_trajectory(ran: tuple[str, Path]) -> None:
    lines = [line.split() for line in ran[0].splitlines()]
    steps = {line[0]: float(line[1]) for line in lines if len(line) == 5 and line[0].isdigit()}
    assert steps == {"0": 1.93328, "14": 1.9057, "100": 1.99559, "205": 1.9997, "300": 1.99338}
    assert "dip 1.43 %, decline after the peak 0.32 %" in ran[0]


def test_it_prints_every_control_with_what_the_paper_claims(ran: tuple[str, Path]) -> None:
    found = re.findall(
        r"^(\S.*?)  +(\d+)  +([\d.]+)  +([\d.]+)  +([\d.]+)  +([\d.]+) -> ([\d.]+)  +(\S.*)$", ran[0], re.M
    )
    assert [(row[0], row[1], row[2], row[7]) for row in found] == [
        ("skew 2 2 1 1, d = 2", "60", "0.07", "compression"),
        ("same, 3,000 steps", "30", "0.03", "compression"),
        ("uniform 2 2 2 2, d = 2", "60", "0.02", "none"),
        ("no bottleneck, d = 3", "60", "0.08", "none"),
        ("squared error, skew", "60", "0.42", "none; learns frequent classes only"),
        ("squared error, uniform", "60", "0.23", "none"),
    ]


def test_the_figure_stands_alone(ran: tuple[str, Path]) -> None:
    page = ran[1].read_text()
    assert "RankMe of the golden run" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
