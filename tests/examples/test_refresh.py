"""The examples of FeatureRefresh and OutOfDomainStop run as they stand, without the hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(example: str, out: Path, *options: str) -> list[str]:
    """What an example prints of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "examples" / f"{example}.py"), "--out", str(out), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "refreshed"),
    [
        (["--kind", "anchor", "--when", "every:2"], r"step 4: loss [\d.]+, drift [\d.e-]+, tokens [\d.e+]+"),
        (["--kind", "shrink", "--rho", "0.3"], r"step 4: norm [\d.]+"),
        (["--kind", "spectral", "--repair", "directions"], r"step 4: directions .*, moved [\d.]+, left_out [\d.]+"),
    ],
    ids=["anchor", "shrink", "spectral"],
)
def test_the_refresh_is_told_and_what_it_did_to_the_losses(tmp_path: Path, options: list[str], refreshed: str) -> None:
    said = run("refresh", tmp_path, "--steps", "4", *options)
    assert re.fullmatch(refreshed, said[-4])
    assert all(
        re.fullmatch(r"(arithmetic|prose|arithmetic, shifted) +[\d.]+ nats per token", line) for line in said[-3:]
    )
    assert (tmp_path / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_step_whose_weights_are_left_is_told(tmp_path: Path) -> None:
    said = run("early_stop", tmp_path, "--steps", "4", "--evaluations", "4")
    losses = {int(line.split()[0]): float(line.split()[1]) for line in said if re.fullmatch(r" +\d+  [\d.]+", line)}
    assert list(losses) == [0, 1, 2, 3, 4]
    (left,) = (int(line.rpartition(" ")[2]) for line in said if line.startswith("left: the weights of step"))
    assert losses[left] == min(loss for step, loss in losses.items() if step)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert len(list((tmp_path / "limber-early-stop").iterdir())) >= 2
