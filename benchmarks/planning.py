"""Planning at scale: a tree of some 100,000 nodes, planned, looked at and handed out job by job."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import process_time

from benchmarks.harness import Figure, note
from limberlm.study.plan.cost import NOTHING
from limberlm.study.plan.steps import courses
from limberlm.study.plan.tree import Plan, plan_study
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.agenda import Agenda
from limberlm.study.run.jobs import Board, Job
from limberlm.study.settings.config import StudySettings, study_settings
from limberlm.study.store.store import COMPLETE, Store

HANDED = 2000  # jobs that are handed out and ended, of the 200,000
TRAIN, MEASURE = 4.0, 1.0  # how long jobs take in the simulation, in units of one measurement


def figures(quick: bool) -> Iterator[Figure]:
    """CPU of a plan, of a look at everything and of handing out a job; then what more machines gain, simulated."""
    settings = _settings(4, 1) if quick else _settings(7, 8)
    began = process_time()
    plan = _plan(settings)
    yield _seconds("planning/plan", f"CPU of planning {len(plan.nodes):,} nodes", process_time() - began, 10)
    with TemporaryDirectory() as scratch:
        board = _board(settings, plan, Path(scratch))
        began = process_time()
        board.states()
        what = f"CPU of one look at all jobs of {len(plan.nodes):,} nodes; a run takes three"
        yield _seconds("planning/look", what, process_time() - began)
        yield from handing_out(board)
    yield from machines(4 if quick else 64)


def handing_out(board: Board) -> Iterator[Figure]:
    """Jobs handed out and ended one by one; of making them only the records."""
    agenda, each = Agenda(board, in_order=False), list[float]()
    for node in board.plan.nodes[:2]:
        board.parts(node)  # reads the probe, once a run
    for _ in range(min(HANDED, len(board.jobs))):
        began = process_time()
        job = agenda.next()
        assert job is not None
        took = process_time() - began
        record(board, job)
        began = process_time()
        agenda.ended(job)
        each.append(took + process_time() - began)
    half = len(each) // 2
    note(
        f"    {1e3 * mean(each[:half]):.3f} ms a job in the first half, {1e3 * mean(each[half:]):.3f} ms in the second"
    )
    what = f"CPU of handing out and ending 1,000 jobs of {len(board.plan.nodes):,} nodes"
    yield _seconds("planning/thousand_jobs", what, 1000 * mean(each), 10)


def machines(most: int) -> Iterator[Figure]:
    """Rounds of a study of some hundred nodes on one worker over those on several, by the agenda itself."""
    settings = _settings(4, 6)
    plan = _plan(settings)
    alone = simulated(settings, plan, 1)
    for workers in (most // 4, most):
        gain = alone / simulated(settings, plan, workers)
        what = f"how much sooner {workers} workers end a study of {len(plan.nodes)} nodes than one, simulated"
        yield Figure(f"planning/workers_{workers}", what, gain)


def simulated(settings: StudySettings, plan: Plan, workers: int) -> float:
    """When so many workers end a study, in measurements: training takes four, handing out nothing."""
    with TemporaryDirectory() as scratch:
        board = _board(settings, plan, Path(scratch))
        agenda, busy, now = Agenda(board, in_order=False), list[tuple[float, str, Job]](), 0.0
        while True:
            while len(busy) < workers and (job := agenda.next()) is not None:
                heapq.heappush(busy, (now + (TRAIN if job.kind == "make" else MEASURE), job.name, job))
            if not busy:
                return now
            now, _, job = heapq.heappop(busy)
            record(board, job)
            agenda.ended(job)


def record(board: Board, job: Job) -> None:
    """The records of a finished job, and nothing else of it."""
    store, node = board.store, job.node
    folders = {store.node(node.id): ""} if job.kind == "make" else {}
    if job.kind == "measure":
        folders = {store.part(node.id, part.name): identity for part, identity in board.parts(node)}
    for folder, identity in folders.items():
        folder.mkdir(parents=True)
        (folder / COMPLETE).write_text(json.dumps({"digests": {}, "identity": identity}))


def _settings(stages: int, seeds: int) -> StudySettings:
    """All orders of so many stages, under so many seeds."""
    stage = {"trainer": "sft", "data": "testbed:arithmetic", "rows": 64, "args": {"max_steps": 8}}
    content = {
        "stages": {f"stage{i}": stage | {"task": f"task{i}"} for i in range(stages)},
        "orderings": {"permute": [f"stage{i}" for i in range(stages)]},
        "seeds": list(range(seeds)),
    }
    return study_settings(content, "benchmark")


def _plan(settings: StudySettings) -> Plan:
    """The plan, as a study's, with digests of rows and files given."""
    chains = courses(settings, lambda step: NOTHING)
    return plan_study(settings, "base", chains, lambda step, study_seed, seed: f"{step.name}-{seed}", lambda chosen: {})


def _board(settings: StudySettings, plan: Plan, folder: Path) -> Board:
    store = Store(folder)
    store.nodes.mkdir()
    return Board(Workplace(settings), store, plan)


def _seconds(name: str, what: str, seconds: float, most: float | None = None) -> Figure:
    return Figure(name, what, seconds, None if most is None else ("<=", most), "seconds")
