"""The example of foundation-preserving LoRA runs on the bundled base and prints its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_example_runs_on_the_bundled_base_without_the_hub(tmp_path: Path) -> None:
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", ROOT / "examples/folora.py", "--out", tmp_path, "--steps", "4"]
    done = subprocess.run(
        [*command, "--proxy", "16", "--arm", "lora", "both"],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, header, plain, both = done.stdout.splitlines()
    assert header.split() == ["arm", "held-out", "loss", "prose", "drift"]
    row = r" +{} +\d\.\d{{4}}  [+-]\d\.\d{{3}}  \d\.\d{{2}}e-\d\d"
    assert re.fullmatch(row.format("lora"), plain)
    assert re.fullmatch(row.format("both"), both)
