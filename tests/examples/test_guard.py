"""The guard's example runs as it stands, without the hub, and shows a stage with and without its guard."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_shows_both_arms(tmp_path: Path) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    asked = ["--steps", "4", "--every", "2", "--items", "8"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples" / "guard.py", "--out", tmp_path, *asked],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    arms = re.findall(r"^seed 0, (\w+): effective rank x [\d.]+ \([\d.]+ to [\d.]+\) on fresh texts", done.stdout, re.M)
    assert arms == ["unguarded", "guarded"]
    steps = re.findall(r"^ +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +(?:inside|outside|cannot tell)", done.stdout, re.M)
    assert steps == ["2", "4"] * 2
    assert (tmp_path / "guarded-0" / "limber-guard.json").is_file()
