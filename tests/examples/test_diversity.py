"""The example of `DiversityRegularizer` runs on the bundled base without the hub, and shows the reference binding."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "diversity.py"


@pytest.mark.slow
def test_it_prints_the_penalty_and_leaves_its_reference(tmp_path: Path) -> None:
    source = os.pathsep.join([str(EXAMPLE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLE), "--out", str(tmp_path), "--steps", "16"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ +(8|16) +[\d.]+ +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.M)
    assert [row[0] for row in rows] == ["8", "16"]
    assert (float(rows[0][1]), float(rows[0][2])) == (0, 0)
    assert float(rows[1][1]) > 0
    kept = json.loads((tmp_path / "limber-reference.json").read_text())
    # the log has the mean of the ratios, the reference the inverse of the mean of their inverses
    mean = sum(kept["participation_ratio"].values()) / len(kept["participation_ratio"])
    assert mean == pytest.approx(float(rows[0][3]), rel=0.1)
