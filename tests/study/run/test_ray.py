"""A study on Ray ends at the same bytes as in one process, whoever is killed, and says nothing of Ray."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import NodeFailed, UserError
from limberlm.study import Study
from limberlm.study.run import runner
from tests.study.run.kills import killing
from tests.study.run_folder import ENVIRONMENT, command, digests

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs limberlm[ray]")
# Ray's workers give way to all other processes; on a busy machine tests would wait for ever
QUIET = {"RAY_worker_niceness": "0"}
CLOSED = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_ray_makes_the_same_bytes_each_thing_once_and_says_nothing_of_its_own(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path
) -> None:
    line = command(make_study(**tree), tmp_path / "run", "--engine", "ray", "--jobs", "2")
    line.remove("--quiet")
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT | QUIET)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "run") == digests(undisturbed)
    told = done.stderr.splitlines()
    assert [line for line in told if not line.endswith(": finished")] == []
    assert len(set(told)) == len(told) == 6
    left = {path.suffix for path in (tmp_path / "run" / "logs").iterdir()}
    assert left == {".log"}
    assert list((tmp_path / "run" / "leases").glob("*.lease")) == []


@pytest.mark.slow
def test_an_address_where_nothing_answers_ends_the_command_with_one_line(
    make_study: Callable[..., Path], tmp_path: Path
) -> None:
    line = command(make_study(), tmp_path / "run", "--engine", "ray", "--address", CLOSED)
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 3
    assert done.stderr == f"limber: --address {CLOSED}: no Ray cluster answers there; start one with ray start --head\n"


@pytest.mark.slow
def test_a_cluster_that_does_not_start_ends_the_command_with_one_line(
    make_study: Callable[..., Path], tmp_path: Path
) -> None:
    sockets = tmp_path / ("long" * 30)  # longer than the path of a socket can be
    line = command(make_study(), tmp_path / "run", "--engine", "ray")
    environment = ENVIRONMENT | {"RAY_TMPDIR": str(sockets)}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 3
    [told] = done.stderr.splitlines()
    assert told.startswith("limber: --engine ray: no cluster could be started on this machine; free it, or give --addr")


@pytest.mark.slow
def test_what_no_machine_has_is_refused_and_nothing_is_made(make_study: Callable[..., Path], tmp_path: Path) -> None:
    study = Study.load(make_study(resources={"custom": {"big": 1}}), tmp_path / "run")
    with pytest.raises(UserError, match=r"^resources of base \(.*big: 1\): no machine of the Ray cluster has as much"):
        study.run("ray")
    assert list((study.out / "nodes").iterdir()) == []


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_job_done_again(
    undisturbed: Path,
    make_study: Callable[..., Path],
    tree: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    events: list[runner.Event] = []
    study = Study.load(make_study(**tree), tmp_path / "run")
    with killing(study.out, "sft-*.make", 1) as killed:
        study.run("ray", events.append, jobs=2)
    assert len(killed) == 1
    assert "died" not in capfd.readouterr().out
    assert digests(study.out) == digests(undisturbed)
    ended = Counter((event.node.id, event.phase) for event in events if event.phase in ("made", "done", "kept"))
    assert set(ended.values()) == {1}


@pytest.mark.slow
def test_a_job_that_kills_its_worker_three_times_has_failed(make_study: Callable[..., Path], tmp_path: Path) -> None:
    study = Study.load(make_study(), tmp_path / "run")
    why = r"^sft-\w+: its Ray worker died: .*\(3 times\); all that does not depend on it is done"
    with killing(study.out, "sft-*.make", 9) as killed, pytest.raises(NodeFailed, match=why):
        study.run("ray", jobs=2)
    assert len(killed) == 3
    assert [path.parent.name.partition("-")[0] for path in study.out.glob("nodes/*/COMPLETE")] == ["base"]


@pytest.fixture
def cluster() -> Iterator[None]:
    """A cluster that was there before."""
    line = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [*line, "start", "--head", "--port", "0", "--num-cpus", "2", "--include-dashboard", "false"]
    subprocess.run(start, check=True, capture_output=True)
    yield
    subprocess.run([*line, "stop", "--force"], check=True, capture_output=True)


@pytest.mark.slow
def test_a_cluster_is_joined_and_a_machine_that_does_not_see_the_run_directory_named(
    cluster: None, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    def hide(event: runner.Event) -> None:
        for mark in (tmp_path / "run" / "logs").glob("*.run"):
            mark.unlink()

    study = Study.load(make_study(), tmp_path / "run")
    with pytest.raises(UserError, match=rf"^{study.out}: the machine .* of the Ray cluster does not see it; put --out"):
        study.run("ray", hide, address="auto")
    study.run("ray", address="auto")
    assert {name.partition("/")[0].partition("-")[0] for name in digests(study.out)} == {"base", "sft", "dpo"}
