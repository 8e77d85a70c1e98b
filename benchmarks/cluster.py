"""Ray beside local workers: what a job costs that does nothing, and a whole study, with its start and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Figure, Goal, compared, in_fresh_process, note
from benchmarks.runner import square, write
from limberlm.study import Study

ENGINES = ("local", "ray")


def figures(quick: bool) -> Iterator[Figure]:
    """Wall time, two workers with one thread each on both sides."""
    with TemporaryDirectory() as scratch:
        yield from nodes(Path(scratch), jobs=20 if quick else 200, rounds=1 if quick else 3)
        yield from studies(Path(scratch), steps=1 if quick else 10, rounds=1 if quick else 2)


def nodes(scratch: Path, jobs: int, rounds: int) -> Iterator[Figure]:
    """What a node costs that takes no time: its two jobs are given to warm workers, which find them done."""
    study = Study.load(write(scratch, _nothing()), scratch / "nothing")
    study.run()
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine, each in seconds.items():
            each.append(2 * in_fresh_process("benchmarks.cluster_case", "jobs", engine, study.out, jobs))
            note(f"    {engine}: {each[-1]:.4f} s for a node")
    for engine, each in seconds.items():
        goal: Goal | None = ("<=", 0.5) if engine == "ray" else None
        what = (
            f"wall time of giving and ending a node's two jobs that have nothing to do, by two workers, engine {engine}"
        )
        yield Figure(f"cluster/node_{engine}", what, median(each), goal, "seconds", min(each), max(each))


def studies(scratch: Path, steps: int, rounds: int) -> Iterator[Figure]:
    """A small study, from the command's beginning and from the end of its first job, when engines are up."""
    file = write(scratch, square(steps))
    taken: dict[str, list[dict[str, float]]] = {engine: [] for engine in ENGINES}
    for number in range(rounds):
        for engine, each in taken.items():
            out = scratch / f"{engine}-{number}"
            each.append(in_fresh_process("benchmarks.cluster_case", "study", engine, file, out))
            note(f"    {engine}: {each[-1]['whole']:.1f} s wall, {each[-1]['after']:.1f} s after the first job")
    size = f"four chains of four stages of {steps} steps, two workers, on Ray over local"
    for part, words, goal in (
        ("after", "without the engine's start: from the end of the first job", ("<=", 1.05)),
        ("whole", "with the start of engine and workers", None),
    ):
        ray, local = ([run[part] for run in taken[engine]] for engine in ("ray", "local"))
        yield compared(f"cluster/study_{part}", f"wall time of {size}, {words}", ray, local, goal)


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
