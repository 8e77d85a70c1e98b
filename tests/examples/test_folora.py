"""The example of foundation-preserving LoRA runs on the bundled base, and on real data, and prints its table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.observe.tiny import shared

ROOT = Path(__file__).parents[2]


def table(*words: object) -> list[tuple[str, str]]:
    """Arm and learning rate of each row of the table that it prints."""
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "examples/folora.py", *map(str, words)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header = r"^ +arm +rate +held-out loss +own texts +prose +drift\n"
    printed = re.split(header, done.stdout, flags=re.MULTILINE)[1]
    row = r" +(\w+) +([\d.]+) +\d\.\d{4} +[+-]\d\.\d{3} +[+-]\d\.\d{3} +\d\.\d{2}e-\d\d"
    return [re.fullmatch(row, line).groups() for line in printed.splitlines()]  # type: ignore[union-attr,misc]


@pytest.mark.slow
def test_the_example_runs_on_the_bundled_base_without_the_hub(tmp_path: Path) -> None:
    found = table("--out", tmp_path, "--steps", 4, "--texts", 16, "--arm", "lora", "both")
    assert found == [("lora", "0.001"), ("both", "0.001")]


@pytest.mark.slow
@pytest.mark.skipif(shared("models", "stories260k") is None, reason="no shared models and data (LIMBER_SHARED)")
def test_the_example_runs_on_a_real_model_and_a_file_of_rows(tmp_path: Path) -> None:
    """As the page shows it, but for fewer steps and texts."""
    real = ("--model", shared("models", "stories260k"), "--task", shared("data", "math", "gsm8k_train.jsonl"))
    few = ("--rank", 8, "--steps", 2, "--texts", 16, "--arm", "folora", "--learning-rate", 1e-3, 3e-3)
    assert table(*real, "--out", tmp_path, *few) == [("folora", "0.001"), ("folora", "0.003")]
    assert (tmp_path / "folora-0.003" / "adapter_model.safetensors").is_file()
