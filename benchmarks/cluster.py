"""Ray beside local workers: what a job costs that does nothing, and a whole study, with its start and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Figure, Goal, compared, in_fresh_process, note
from benchmarks.runner import square, write

ENGINES = ("local", "ray")
STEPS = 10
SQUARE = f"four chains of four stages of {STEPS} steps"


def figures(quick: bool) -> Iterator[Figure]:
    """Wall time, two workers with one thread each on both sides."""
    with TemporaryDirectory() as scratch:
        yield from nodes(Path(scratch), jobs=20 if quick else 200, rounds=1 if quick else 3)
        yield from study_times(Path(scratch), *((_nothing(), "two stages") if quick else (square(STEPS), SQUARE)))


def nodes(scratch: Path, jobs: int, rounds: int) -> Iterator[Figure]:
    """What a node costs that takes no time: its two jobs are given to warm workers, which find them done."""
    run = scratch / "nothing"
    command = [sys.executable, "-m", "limberlm", "run", str(write(scratch, _nothing())), "--out", str(run), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine, each in seconds.items():
            each.append(2 * in_fresh_process("benchmarks.cluster_case", "jobs", engine, run, jobs))
            note(f"    {engine}: {each[-1]:.4f} s for a node")
    for engine, each in seconds.items():
        goal: Goal | None = ("<=", 0.5) if engine == "ray" else None
        what = (
            f"wall time of giving and ending a node's two jobs that have nothing to do, by two workers, engine {engine}"
        )
        yield Figure(f"cluster/node_{engine}", what, median(each), goal, "seconds", min(each), max(each))


def study_times(scratch: Path, settings: dict[str, Any], size: str) -> Iterator[Figure]:
    """A small study, from the command's beginning and from the end of its first job, when engines are up."""
    file = write(scratch, settings)
    taken: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        taken[engine] = in_fresh_process("benchmarks.cluster_case", "study", engine, file, scratch / engine)
        note(f"    {engine}: {taken[engine]['whole']:.1f} s wall, {taken[engine]['after']:.1f} s after the first job")
    most: Goal = ("<=", 1.05)
    for part, words, goal in (
        ("after", "without the engine's start, from the end of the first job", most),
        ("whole", "with the start of engine and workers", None),
    ):
        what = f"wall time of a study of {size}, two workers, on Ray over local, {words}"
        yield compared(f"cluster/study_{part}", what, [taken["ray"][part]], [taken["local"][part]], goal)


def _nothing() -> dict[str, Any]:
    """Two stages of one step, and next to nothing measured."""
    args = {"max_steps": 1, "per_device_train_batch_size": 2}
    stage = {"trainer": "sft", "data": "testbed:instructions", "rows": 8, "args": args}
    return {
        "name": "nothing",
        "stages": {"one": stage, "two": stage | {"data": "testbed:refusals"}},
        "measure": {"every_stage": False, "max_tokens": 1000},
        "outcomes": {"items": 4, "ood": False, "plasticity": False},
    }
