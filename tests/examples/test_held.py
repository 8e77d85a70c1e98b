"""The examples of the anchor, KL to the base and GEM's form run on the bundled base and print their tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = {
    "anchor": r" *(\d+) +\d\.\d{4}  \d\.\d{3}",
    "kl_to_base": r" *(\d+) +\d\.\d{4}  \d\.\d{3}",
    "entropy": r" *(\d+)  \d\.\d{3}  \d\.\d{3}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROW)
def test_the_example_runs_on_the_bundled_base_without_the_hub(tmp_path: Path, name: str) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples" / f"{name}.py", "--out", tmp_path, "--steps", "10"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, row, last = done.stdout.splitlines()
    assert re.fullmatch(ROW[name], row)
    assert re.fullmatch(r"training loss [\d.]+ -> [\d.]+, prose [\d.]+ -> [\d.]+", last)
