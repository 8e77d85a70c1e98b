"""Planning at scale: a tree of some 100,000 nodes, planned, looked at and handed out job by job."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from time import process_time

from benchmarks.harness import Figure, Goal, in_turns
from limberlm.study.plan.cost import NOTHING
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.steps import courses
from limberlm.study.plan.tree import plan_study
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.agenda import Agenda
from limberlm.study.run.jobs import Board, Job
from limberlm.study.settings.config import StudySettings, study_settings
from limberlm.study.store.store import COMPLETE, Store

HANDED = 2000  # jobs that are handed out and ended, of the 200,000
TRAIN, MEASURE = 4.0, 1.0  # how long jobs take in the simulation, in units of one measurement


def figures(quick: bool) -> Iterator[Figure]:
    """CPU of a plan, of a look at everything and of handing out jobs; then what more machines gain, simulated."""
    settings = _settings(5, 2) if quick else _settings(7, 8)
    rounds = 1 if quick else 3
    plan = _plan(settings)
    nodes = f"{len(plan.nodes):,} nodes"
    planning = in_turns({"planning": lambda: _plan(settings)}, rounds)["planning"]
    yield _seconds("planning/plan", f"CPU of planning {nodes}", planning, 10)
    with TemporaryDirectory() as scratch:
        board = _board(settings, plan, Path(scratch))
        board.states()
        look = in_turns({"look": board.states}, rounds)["look"]
        yield _seconds("planning/look", f"CPU of one look at how all jobs of {nodes} stand; a run takes three", look)
        each = handing_out(board)
    tenth = len(each) // 10
    thousands = [1000 * mean(each[start : start + tenth]) for start in range(0, 10 * tenth, tenth)]
    what = f"CPU of handing out and ending 1,000 jobs of {nodes}; the range is that of tenths of {len(each):,} jobs"
    yield _seconds("planning/thousand_jobs", what, thousands, 10)
    yield from machines(8 if quick else 64)


def handing_out(board: Board) -> list[float]:
    """CPU seconds of each job that is handed out and ended; of making them only the records, which do not count."""
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
    return each


def machines(most: int) -> Iterator[Figure]:
    """How much sooner several workers end a study of some hundred nodes than one, by the agenda that runs have."""
    settings = _settings(4, 6)
    plan = _plan(settings)
    alone = simulated(settings, plan, 1)
    for workers in (most // 4, most):
        gain = alone / simulated(settings, plan, workers)
        what = f"how much sooner {workers} workers end a study of {len(plan.nodes)} nodes than one, simulated"
        yield Figure(f"planning/workers_{workers}", what, gain, low=gain, high=gain)


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


def _seconds(name: str, what: str, seconds: list[float], most: float | None = None) -> Figure:
    goal: Goal | None = None if most is None else ("<=", most)
    return Figure(name, what, median(seconds), goal, "seconds", min(seconds), max(seconds))
