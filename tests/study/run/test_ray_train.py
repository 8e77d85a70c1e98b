"""A stage on several GPUs of a Ray cluster ends where one GPU does, whoever is killed, and leaves nobody behind.

The GPUs are pretended: Ray is told of two, torch sees none, and the processes add up their gradients by gloo.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from limberlm.errors import NodeFailed
from limberlm.stages.hand_over.rounding import relative_rms
from limberlm.study import Study
from limberlm.study.run.runner import Event
from tests.study.run_folder import command, digests

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs limberlm[ray]")
CLOSE = 1e-6
"""Relative: sums of float32 in another order. Measured here: 5e-8 of the weights, 4e-7 of the loss."""


@pytest.fixture(scope="module")
def chain(study_settings: dict[str, Any]) -> dict[str, Any]:
    """SFT, then DPO, of four steps of two micro-batches of four rows; without dropout, which no two runs share."""
    args = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "learning_rate": 1e-3}
    stages = {name: stage | {"args": args, "rows": 32} for name, stage in study_settings["stages"].items()}
    stages["dpo"] |= {"checkpoints": 3}
    return study_settings | {
        "stages": stages,
        "adapter": study_settings["adapter"] | {"lora_dropout": 0.0},
        "outcomes": {"items": 4, "plasticity": False},
    }


@pytest.fixture(scope="module")
def pretended() -> Iterator[None]:
    """Two GPUs that are not there, on clusters of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_OVERRIDE_RESOURCES", json.dumps({"CPU": 4, "GPU": 2}))
        # Ray's workers give way to all other processes; on a busy machine tests would wait for ever
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")  # whatever token lies in the home folder
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def a_study(folder: Path, settings: dict[str, Any]) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(json.dumps(settings))
    return Study.load(folder / "study.yaml", folder / "run")


@pytest.fixture(scope="module")
def on_one(tmp_path_factory: pytest.TempPathFactory, chain: dict[str, Any]) -> Path:
    """The chain, trained by one process."""
    study = a_study(tmp_path_factory.mktemp("one"), chain)
    study.run()
    return study.out


@pytest.fixture(scope="module")
def on_both(pretended: None, tmp_path_factory: pytest.TempPathFactory, chain: dict[str, Any]) -> Path:
    """The chain, trained by two processes."""
    study = a_study(tmp_path_factory.mktemp("two"), chain | {"resources": {"gpus": 2}})
    study.run("ray")
    return study.out


def nodes(run: Path) -> list[Path]:
    return sorted(path.parent for path in run.glob("nodes/*/COMPLETE") if (path.parent / "training.parquet").exists())


def apart(one: Path, two: Path) -> float:
    """||two - one|| / ||one|| over all tensors of two files."""
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    return relative_rms(
        torch.cat([second[name].flatten() for name in first]), torch.cat([first[name].flatten() for name in first])
    )


@pytest.mark.slow
def test_two_gpus_end_where_one_ends_but_for_rounding(on_one: Path, on_both: Path) -> None:
    assert digests(on_one).keys() == digests(on_both).keys()
    pairs = list(zip(nodes(on_one), nodes(on_both), strict=True))
    assert [one.name.partition("-")[0] for one, _ in pairs] == ["dpo", "sft"]
    for one, two in pairs:
        weights = sorted(path.relative_to(one) for path in one.rglob("adapter_model.safetensors"))
        assert len(weights) == (4 if one.name.startswith("dpo") else 1)
        for path in weights:
            assert apart(one / path, two / path) < CLOSE
        told = json.loads((two / "node.json").read_text())
        assert (told["processes"], told["threads"]) == (2, 1)
        assert not list(two.rglob("*ray*"))


@pytest.mark.slow
def test_two_gpus_see_the_rows_that_one_sees(on_one: Path, on_both: Path) -> None:
    for one, two in zip(nodes(on_one), nodes(on_both), strict=True):
        expected, found = (pd.read_parquet(node / "training.parquet") for node in (one, two))
        assert list(found.columns) == list(expected.columns)
        assert found["num_tokens"].tolist() == expected["num_tokens"].tolist()
        assert np.allclose(found["loss"], expected["loss"], rtol=CLOSE, atol=0)


@pytest.mark.slow
def test_what_two_gpus_made_is_kept(on_both: Path, chain: dict[str, Any]) -> None:
    events: list[Event] = []
    before = digests(on_both)
    Study.load(on_both.parent / "study.yaml", on_both).run("local", events.append)
    assert {event.phase for event in events} == {"kept"}
    assert digests(on_both) == before


def training_processes(run: Path) -> list[int]:
    """Those that train a stage of the run, by the logs that they opened in it."""
    pids = [int(path.stem.rpartition("-")[2]) for path in (run / "logs").glob("ray-*.log")]
    return [pid for pid in pids if b"RayTrainWorker" in _title(pid)]


def _title(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.slow
def test_a_process_of_a_stage_that_is_killed_is_replaced_and_the_end_is_the_same(
    on_both: Path, pretended: None, chain: dict[str, Any], tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(event: Event) -> None:
        if event.phase == "training" and not killed:
            killed.append(training_processes(study.out)[-1])
            os.kill(killed[0], signal.SIGKILL)

    study = a_study(tmp_path, chain | {"resources": {"gpus": 2}})
    study.run("ray", kill)
    assert len(killed) == 1
    assert digests(study.out) == digests(on_both)


@pytest.mark.slow
def test_a_stage_that_goes_wrong_in_all_processes_is_told_in_one_line(
    pretended: None, chain: dict[str, Any], tmp_path: Path
) -> None:
    wild = chain["stages"]["sft"] | {"args": chain["stages"]["sft"]["args"] | {"learning_rate": 1e30}}
    study = a_study(tmp_path, chain | {"stages": {"sft": wild}, "resources": {"gpus": 2}})
    with pytest.raises(NodeFailed, match=r"^sft-\w+: the loss is nan at step \d: lower the learning rate"):
        study.run("ray")


HOLDER = """
import time, ray
ray.init("local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
print("at", ray.get_runtime_context().gcs_address, flush=True)
time.sleep(3600)
"""


@pytest.fixture
def cluster(pretended: None) -> Iterator[str]:
    """The address of a cluster that stays when a run of ours ends."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        yield next(line.split()[1] for line in holder.stdout if line.startswith("at "))
        holder.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_when_the_command_is_ended_no_process_of_its_stage_stays(
    by: signal.Signals, cluster: str, chain: dict[str, Any], tmp_path: Path
) -> None:
    endless = chain["stages"]["sft"] | {"args": chain["stages"]["sft"]["args"] | {"max_steps": 100_000}}
    study = a_study(tmp_path, chain | {"stages": {"sft": endless}, "resources": {"gpus": 2}})
    line = command(tmp_path / "study.yaml", study.out, "--engine", "ray", "--address", cluster)
    with subprocess.Popen(line, env=os.environ) as driver:
        while len(pids := training_processes(study.out)) < 2 or not list(study.out.glob("logs/*.progress")):
            assert driver.poll() is None
            time.sleep(0.2)
        driver.send_signal(by)
    for _ in range(240):
        if not any(_title(pid) for pid in pids):
            break
        time.sleep(0.5)
    assert [pid for pid in pids if _title(pid)] == []
