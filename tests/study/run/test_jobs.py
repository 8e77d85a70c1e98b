"""Several workers and several runners make the same store, each thing once, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import NodeFailed
from limberlm.study import Study
from limberlm.study.run.runner import Event
from tests.study.run_folder import ENVIRONMENT, command, digests


def test_two_jobs_make_the_same_bytes_and_each_thing_once(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    events: list[Event] = []
    study = Study.load(make_study(**tree), tmp_path / "run")
    study.run(watch=events.append, jobs=2)
    assert digests(study.out) == digests(undisturbed)
    ended = Counter((event.node.id, event.phase) for event in events if event.phase in ("made", "done", "kept"))
    assert set(ended.values()) == {1}
    assert len(ended) == 2 * len(study.plan().nodes)


@pytest.mark.slow
def test_two_runners_at_once_make_nothing_twice(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path
) -> None:
    line = command(make_study(**tree), tmp_path / "run")
    line.remove("--quiet")
    runners = [
        subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) for _ in "ab"
    ]
    told = [runner.communicate() for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], told
    finished = Counter(line for _, errors in told for line in errors.splitlines() if line.endswith(": finished"))
    assert set(finished.values()) == {1}
    assert len(finished) == 6
    assert digests(tmp_path / "run") == digests(undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_task_done_again(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killed: list[int] = []

    def watch(event: Event) -> None:
        if event.phase == "training" and not killed:
            lease = json.loads((tmp_path / "run" / "leases" / f"{event.node.id}.make.lease").read_text())
            killed.append(lease["pid"])
            os.kill(lease["pid"], signal.SIGKILL)

    study = Study.load(make_study(**tree), tmp_path / "run")
    study.run(watch=watch, jobs=2)
    assert killed
    assert digests(study.out) == digests(undisturbed)


def test_a_failed_node_stops_only_what_depends_on_it_until_it_is_retried(
    make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path
) -> None:
    stages = tree["stages"]
    broken = stages | {"math": stages["math"] | {"args": stages["math"]["args"] | {"learning_rate": 1e30}}}
    study = Study.load(make_study(**tree | {"stages": broken}), tmp_path / "run")
    with pytest.raises(NodeFailed, match=r"math-\w+: the loss is nan at step 2.*and 1 more.*--retry"):
        study.run()
    done = {name.partition("-")[0] for name in digests(study.out)}
    assert done == {"base", "sft", "dpo"}
    before = time.monotonic()
    events: list[Event] = []
    with pytest.raises(NodeFailed):
        study.run(watch=events.append)
    assert {event.phase for event in events} == {"kept"}, f"tried again unasked, {time.monotonic() - before:.0f} s"
    with pytest.raises(NodeFailed):
        study.run(watch=events.append, retry=True)
    assert "failed" in {event.phase for event in events}


@pytest.mark.slow
def test_killed_at_any_instant_runner_and_workers_end_at_the_same_bytes(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path
) -> None:
    rng = random.Random(0)
    line = command(make_study(**tree), tmp_path / "run", "--jobs", "2")
    for kill in range(20):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        time.sleep(rng.uniform(2.0, 20.0))
        victims = [process.pid] if kill % 2 else [lease["pid"] for lease in leases(tmp_path / "run")]
        for pid in victims:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if process.pid in victims:
            process.wait()
        else:
            time.sleep(rng.uniform(0.0, 2.0))
            process.kill()
            process.wait()
    subprocess.run(line, check=True, capture_output=True, env=ENVIRONMENT)
    assert digests(tmp_path / "run") == digests(undisturbed)


def leases(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (run / "leases").glob("*.lease")]
