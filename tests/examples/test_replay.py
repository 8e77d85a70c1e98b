"""The example of replay can be run as it stands, and tells what was mixed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "replay.py"


@pytest.mark.slow  # trains twice, in a process of its own
def test_it_trains_with_and_without_at_the_same_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--out", str(tmp_path), "--steps", "3"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1] / "src")},
    )
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" *\d", line)]
    assert [row[:3] for row in rows] == [["0", "0", "3"], ["0.1", "0", "3"]]
    assert all(0 <= float(row[3]) <= 1 and 2 < float(row[4]) < 6 for row in rows)
    assert re.search(r"replay: (9|1\d)\.\d+ % of .* tokens .* rows \(48 without, so \+0.0 % rows", done.stderr)
