"""Two processes refresh alike, and choose the same weights.

`torchrun -m tests.interventions.refresh.test_two_processes MODEL OUT` is one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limberlm.interventions.refresh.refresh import FeatureRefresh
from limberlm.interventions.rivals.early_stop import OutOfDomainStop
from tests.interventions.refresh.runs import TEXTS, held_out, trained, trainer

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_two_processes_refresh_alike_and_choose_the_same_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "tests.interventions.refresh.test_two_processes", str(tiny_model_folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case in ("refresh", "stop"):
        one, other = (load_file(tmp_path / f"{case}-{rank}.safetensors") for rank in (0, 1))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    kept = {path.name for path in (tmp_path / "stop" / "limber-early-stop").iterdir()}
    assert "losses.json" in kept
    assert not [name for name in kept if name.endswith(".partial")]


def _one_process(base: Path, out: Path) -> None:
    for case, callback in {
        "refresh": FeatureRefresh("anchor", "every:2", texts=TEXTS, steps=2, rows=4, length=24),
        "stop": OutOfDomainStop(rows=held_out(), evaluations=4),
    }.items():
        made = trainer("sft", base, out / case, callback)
        made.train()
        save_file(trained(made), out / f"{case}-{made.args.process_index}.safetensors")


if __name__ == "__main__":
    _one_process(Path(sys.argv[1]), Path(sys.argv[2]))
