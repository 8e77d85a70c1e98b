"""A study with a store goes on where any machine of it was lost, and ends at the bytes of a run without one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from limberlm.study import Study
from limberlm.study.run import ray_task, runner
from limberlm.study.run.jobs import Board
from limberlm.study.run.ray import RayCrew
from limberlm.study.store.lease import LEASES, Leases
from limberlm.study.store.remote import Remote
from limberlm.study.store.run_folder import open_run
from limberlm.study.store.store import COMPLETE, Store
from tests.study.run_folder import ENVIRONMENT, command, digests


class _Lost(BaseException):
    """What happens to a machine."""


@pytest.mark.slow
def test_a_machine_that_is_lost_altogether_is_replaced_by_an_empty_one(
    finished: Study, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/bucket/run"

    def lose(event: runner.Event) -> None:
        if event.phase == "plasticity" and event.node.stage == "sft":
            raise _Lost

    study = Study.load(make_study(), tmp_path / "first", url)
    with pytest.raises(_Lost):
        study.run(watch=lose)
    there = {str(path.parent.relative_to(tmp_path / "bucket" / "run" / "nodes")) for path in _records(tmp_path)}
    assert there == digests(tmp_path / "first").keys()
    shutil.rmtree(tmp_path / "first")

    events: list[runner.Event] = []
    study = Study.load(make_study(), tmp_path / "second", url)
    study.run(watch=events.append)
    assert digests(study.out) == digests(finished.out)
    assert {event.node.stage for event in events if event.phase == "made"} == {"dpo"}
    assert {event.node.stage for event in events if event.phase == "geometry"} == {"dpo"}, "sft's part came back"

    third = Study.load(make_study(), tmp_path / "third", url)
    third.run(watch=events.append)
    assert {event.phase for event in events[-3:]} == {"kept"}
    assert digests(third.out) == digests(finished.out)
    assert (third.out / "study.yaml").read_text() == (tmp_path / "bucket" / "run" / "study.yaml").read_text()


def _records(tmp_path: Path) -> Iterator[Path]:
    return (tmp_path / "bucket").rglob(COMPLETE)


def test_machines_that_share_nothing_but_the_store_make_one_study(
    finished: Study, make_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(ray_task, "_log", lambda root: None)  # it would take this process's own output
    remote = Remote(f"file://{tmp_path}/bucket/run")
    study = Study.load(make_study(), tmp_path / "runner")
    place, plan = runner.prepare(study.settings, study.folder)
    threads = torch.get_num_threads()
    with open_run(study.out, place.settings, plan.as_json(), remote) as store:
        remote.begin((study.out / "study.yaml").read_text(), plan.as_json())
        board = Board(place, store, plan)
        _left_before_a_restart(tmp_path / "a" / LEASES / f"{board.jobs[0].name}.lease", monkeypatch)
        Store(tmp_path / "b").record_failure(board.jobs[1].name, "in a run before; --retry was said since")
        crew = RayCrew(board, None, None)
        for number, job in enumerate(board.jobs):
            machine = str(tmp_path / "ab"[number % 2])
            told = ray_task.perform(board.order(job), machine, "no mark", f"owner{number}", threads)
            assert told["kind"] == "finished", f"{job.name}: {told}"
            assert not board.is_done(job)
            crew._take_over(job, told)
            assert board.is_done(job)
        assert digests(study.out) == digests(finished.out)
        again = ray_task.perform(board.order(board.jobs[-1]), str(tmp_path / "c"), "", "another", threads)
        assert again["kind"] == "finished"
        assert list((tmp_path / "c" / "logs").glob("*")) == [], "nothing was done again"
        crew._take_over(board.jobs[-1], {"kind": "failed", "error": "the loss is nan"})
        assert store.failure(board.jobs[-1].name) == "the loss is nan", "which its machine alone knew"
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "thesis.tex").touch()
        refused = ray_task.perform(board.order(board.jobs[-1]), str(tmp_path / "d"), "", "another", threads)
        assert "holds other files and no study" in refused["user_error"]


def _left_before_a_restart(lease: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Leases.__init__.__kwdefaults__, "stale", 0.2)  # type: ignore[arg-type]
    lease.parent.mkdir(parents=True)
    lease.write_text(json.dumps({"owner": "lost", "machine": "this one, as it was", "pid": 1, "beat": 7}))


ENGINES = [
    pytest.param(["--jobs", "2"], id="workers"),
    pytest.param(
        ["--jobs", "2", "--engine", "ray"],
        id="ray",
        marks=pytest.mark.skipif(find_spec("ray") is None, reason="needs limberlm[ray]"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_in_the_store_what_a_run_without_one_makes(
    undisturbed: Path, make_study: Callable[..., Path], tree: dict[str, Any], tmp_path: Path, engine: list[str]
) -> None:
    url = f"file://{tmp_path}/bucket"
    line = command(make_study(**tree), tmp_path / "run", *engine, "--store", url)
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT | {"RAY_worker_niceness": "0"})
    assert done.returncode == 0, done.stderr
    expected = digests(undisturbed)
    assert digests(tmp_path / "run") == expected
    assert {name: record["digests"] for name, record in Remote(url).records(expected).items()} == expected
