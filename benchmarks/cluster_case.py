"""An engine in a process of its own: seconds for each job that has nothing to do, or those of a study."""

from __future__ import annotations

import json
import os
import sys
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter

from limberlm.study import Study
from limberlm.study.run.crew import Crew
from limberlm.study.run.hands import Engine, Hands
from limberlm.study.run.jobs import Board, Job
from limberlm.study.run.ray import RayCrew
from limberlm.study.run.runner import Event, prepare
from limberlm.study.store.store import Store

WARM = 20
"""Jobs before the clock starts: both workers have read their libraries by then."""


def jobs(engine: str, run: Path, count: int) -> float:
    """Give jobs of a finished study again; a worker takes the lease, checks its inputs and finds that it is done."""
    study = Study.load(run / "study.yaml", run)
    place, plan = prepare(study.settings, study.folder)
    board = Board(place, Store(run), plan)
    with RayCrew(board, 2, None) if engine == "ray" else Crew(board, 2) as hands:
        each = cycle(board.jobs)
        _through(hands, list(islice(each, WARM)))
        began = perf_counter()
        _through(hands, list(islice(each, count)))
        return (perf_counter() - began) / count


def _through(hands: Hands, left: list[Job]) -> None:
    busy = 0
    while left or busy:
        while left and busy < 2:
            hands.give(left.pop())
            busy += 1
        busy -= sum(message.kind == "elsewhere" for _, message in hands.hear(10))


def study(engine: str, file: Path, out: Path) -> dict[str, float]:
    """Seconds of a run: the whole of it, and from the end of its first job."""
    ends: list[float] = []

    def watch(event: Event) -> None:
        if event.phase == "made":
            ends.append(perf_counter())

    began = perf_counter()
    Study.load(file, out).run(Engine("ray" if engine == "ray" else "local", jobs=2), watch)
    ended = perf_counter()
    return {"whole": ended - began, "after": ended - ends[0]}


if __name__ == "__main__":
    os.environ |= {"RAY_worker_niceness": "0"}  # local workers give way to nobody either
    kind, engine, first, second = sys.argv[1:]
    found = jobs(engine, Path(first), int(second)) if kind == "jobs" else study(engine, Path(first), Path(second))
    print(json.dumps(found))
