"""A run trains each node once, and ends with the same bytes however often it was killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from limberlm.study import Study
from limberlm.study.run.runner import Event
from tests.study.run_folder import digests


def test_every_number_of_a_finished_study_is_there(finished: Study) -> None:
    geometry, outcomes, training, comparisons = (
        finished.table(name) for name in ("geometry", "outcomes", "training", "comparisons")
    )
    assert set(geometry["stage"]) == {"base", "sft", "dpo"}
    assert {"accuracy", "pair_accuracy", "loss", "aulc", "future_loss"} <= set(outcomes["outcome"])
    assert set(training["stage"]) == {"sft", "dpo"}
    assert set(comparisons["against"]) == {"base", "previous"}
    assert pd.api.types.is_float_dtype(training["loss"])


def test_the_preference_stage_started_at_log_two(finished: Study) -> None:
    training = finished.table("training")
    first = training[(training["stage"] == "dpo") & (training["step"] == 1)]["loss"].item()
    assert first == pytest.approx(0.6931471805599453, abs=1e-6)


def test_retention_is_the_change_of_earlier_tasks_since_their_stage(finished: Study) -> None:
    outcomes = finished.table("outcomes")

    def loss(stage: str) -> list[float]:
        rows = outcomes[(outcomes["stage"] == stage) & (outcomes["task"] == "instructions")]
        rows = rows[(rows["outcome"] == "loss") & (rows["split"] == "in_domain")]
        return list(rows["items"].item())

    row = outcomes[outcomes["outcome"] == "retention_loss"]
    assert row["stage"].tolist() == ["dpo"]
    changes = [now - then for now, then in zip(loss("dpo"), loss("sft"), strict=True)]
    assert row["value"].item() == pytest.approx(sum(changes) / len(changes))


def test_a_second_run_trains_nothing(finished: Study) -> None:
    before = digests(finished.out)
    events: list[Event] = []
    finished.run(watch=events.append)
    assert {event.phase for event in events} == {"kept"}
    assert digests(finished.out) == before


def test_what_goes_on_is_told_while_it_goes_on(make_study: Callable[..., Path], tmp_path: Path) -> None:
    stages = {"sft": {"trainer": "sft", "data": "testbed:instructions", "rows": 16, "args": {"max_steps": 2}}}
    outcomes = {"items": 4, "ood": False, "plasticity": False}
    study = Study.load(make_study(stages=stages, outcomes=outcomes), tmp_path / "run")
    seen = []
    study.run(watch=lambda event: seen.append((event.phase, (study.out / "nodes" / event.node.id).is_dir())))
    assert seen.count(("training", False)) == 2
    assert [there for phase, there in seen if phase == "made"] == [True, True]


@pytest.mark.slow
def test_another_process_makes_the_same_bytes(finished: Study, make_study: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "again"
    command = [sys.executable, "-m", "limberlm", "run", str(make_study()), "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert digests(out) == digests(finished.out)
    assert json.loads(done.stdout)["chains"][0]["stages"][-1]["stage"] == "dpo"


def test_no_pickle_is_left_in_a_node(finished: Study) -> None:
    names = [path.name for path in finished.out.rglob("*") if path.is_file()]
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_the_run_directory_replays_the_study(finished: Study) -> None:
    replayed = Study.load(finished.out / "study.yaml")
    assert replayed.plan() == finished.plan()


@pytest.mark.slow
def test_killed_at_any_instant_a_run_resumes_to_the_same_bytes(
    finished: Study, make_study: Callable[..., Path], tmp_path: Path
) -> None:
    study, out = make_study(), tmp_path / "killed"
    kill_and_resume([sys.executable, "-m", "limberlm", "run", str(study), "--out", str(out)], kills=6, longest=14.0)
    assert digests(out) == digests(finished.out)


def kill_and_resume(command: list[str], *, kills: int, longest: float) -> None:
    """Start `command`, kill it after a random time, as often as said; then let it finish."""
    rng = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2.0, longest))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
