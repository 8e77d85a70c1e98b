"""The guard's and early warning's examples run as they stand, without the hub, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, *asked: object) -> str:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples" / name, *map(str, asked)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_guards_example_shows_both_arms(tmp_path: Path) -> None:
    said = run("guard.py", "--out", tmp_path, "--steps", 4, "--every", 2, "--items", 8)
    arms = re.findall(r"^seed 0, (\w+): effective rank x [\d.]+ \([\d.]+ to [\d.]+\) on fresh texts", said, re.M)
    assert arms == ["unguarded", "guarded"]
    steps = re.findall(r"^ +(\d+) +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ +(?:inside|outside|cannot tell)", said, re.M)
    assert steps == ["2", "4"] * 2
    assert (tmp_path / "guarded-0" / "limber-guard.json").is_file()


@pytest.mark.slow
def test_the_early_warning_example_tells_each_outcome(tmp_path: Path) -> None:
    said = run("early_warning.py", "--out", tmp_path, "--steps", 2, 4, "--items", 8)
    steps = re.findall(r"^step (\d+): effective rank x [\d.]+ \([\d.]+ to [\d.]+\), refusals ", said, re.M)
    assert steps == ["0", "2", "4"]
    assert said.splitlines()[-5].split()[:4] == ["outcome", "task", "geometry_step", "outcome_step"]
    tasks = ["refusals", "instructions", "arithmetic", "prose"]
    assert [line.split()[1] for line in said.splitlines()[-4:]] == tasks
