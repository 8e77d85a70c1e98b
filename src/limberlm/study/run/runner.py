"""The runner: job after job, or several at once; what is there is kept, what failed holds up nothing but itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limberlm.errors import NodeFailed
from limberlm.stages.trainers import TRAINERS
from limberlm.study.plan.plan import Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.crew import Crew
from limberlm.study.run.effort import Effort, Message
from limberlm.study.run.jobs import Board, Job
from limberlm.study.settings.config import StudySettings
from limberlm.study.settings.resolve import resolve
from limberlm.study.store.run_folder import open_run

POLL = 0.5  # seconds between looks at what other runners do
ATTEMPTS = 2  # of a job whose process dies under it


@dataclass(frozen=True)
class Event:
    """Where a run is: which of how many nodes, which phase of it, how far, and how training goes.

    `phase` is `training`, `geometry` or the name of another part while it goes on; then `made`, `done` (made and
    measured), `kept` (it was there already) or `failed` (`error` says why). `value` is the last value of the stage's
    `headline` quantity: the loss, or the mean reward.
    """

    node: Node
    position: int
    nodes: int
    phase: str
    done: int = 0
    total: int = 1
    value: float | None = None
    headline: str = "loss"
    error: str = ""


Watch = Callable[[Event], None]


def prepare(settings: StudySettings, folder: Path) -> tuple[Workplace, Plan]:
    """Check and read everything a study needs, and plan it; nothing is trained. Relative paths start at `folder`.

    Raises:
        UserError: a base or probe that cannot be read, or a stage whose data or arguments are wrong.

    """
    place = Workplace(resolve(settings, folder))
    return place, place.plan()


def run_study(
    settings: StudySettings,
    out: Path,
    folder: Path,
    watch: Watch = lambda event: None,
    *,
    jobs: int = 1,
    retry: bool = False,
) -> Plan:
    """Run whatever of the study is not there yet, in `out`.

    Args:
        settings: the study.
        out: its run directory.
        folder: where its relative paths start.
        watch: called with every event.
        jobs: so many jobs at once, each in a process of its own; 1 works in this process.
        retry: try again what failed before.

    Raises:
        UserError: wrong settings, or a folder that cannot be used.
        NodeFailed: a node failed, now or before; all that does not depend on it is there.

    """
    place, plan = prepare(settings, folder)
    with open_run(out, place.settings, plan.as_json()) as store:
        if retry:
            store.forget_failures()
        board = Board(place, store, plan)
        runner = _Runner(board, watch)
        runner.say_what_is_there()
        size = min(jobs, sum(state != "done" for state in board.states().values()))
        with Crew(board, size) if jobs > 1 and size else nullcontext(_Here(board, runner.hear)) as hands:
            runner.run(hands)
        failures = {job: store.failure(job.name) for job, state in board.states().items() if state == "failed"}
    if failures:
        job, error = next(iter(failures.items()))
        error = next(iter(str(error).splitlines()), "")  # a traceback may follow, which is in the store
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise NodeFailed(
            f"{job.node.id}: {error}{others}; all that does not depend on it is done; to try again: --retry"
        )
    return plan


class _Here:
    """This process as the only hand: it tells while it works, and has told all when a job is given back."""

    size = 1

    def __init__(self, board: Board, tell: Callable[[Job, Message], None]) -> None:
        self._effort, self._tell = Effort(board), tell

    def give(self, job: Job) -> None:
        self._effort.make(job, partial(self._tell, job))

    def hear(self, timeout: float) -> list[tuple[Job, Message]]:
        return []


class _Runner:
    def __init__(self, board: Board, watch: Watch) -> None:
        self.board, self.watch = board, watch
        self.positions = {node.id: position for position, node in enumerate(board.plan.nodes)}
        self.busy: set[Job] = set()
        self.deaths: dict[Job, int] = {}
        self.later: dict[Job, float] = {}

    def say_what_is_there(self) -> None:
        states = self.board.states()
        for node in self.board.plan.nodes:
            if all(states[job] == "done" for job in self.board.jobs if job.node == node):
                self._say(node, "kept")

    def run(self, hands: Crew | _Here) -> None:
        while True:
            ready = [job for job, state in self.board.states().items() if state == "ready"]
            if not ready and not self.busy:
                return
            self._give(hands, ready)
            for job, message in hands.hear(POLL if self.busy else 0):
                self.hear(job, message)
            if not self.busy and self.later:
                time.sleep(POLL)

    def _give(self, hands: Crew | _Here, ready: list[Job]) -> None:
        now = time.monotonic()
        free = [job for job in ready if job not in self.busy and self.later.get(job, now) <= now]
        if hands.size > 1:
            free.sort(key=self.board.urgency)
        for job in free[: hands.size - len(self.busy)]:
            self.busy.add(job)
            hands.give(job)

    def hear(self, job: Job, message: Message) -> None:
        if message.kind == "progress":
            self._say(job.node, message.phase, message.done, message.total, message.value)
            return
        self.busy.discard(job)
        self.later.pop(job, None)
        if message.kind == "elsewhere":
            self.later[job] = time.monotonic() + POLL
        elif message.kind == "died":
            self._died(job, message.error)
        elif message.kind == "failed":
            self._say(job.node, "failed", error=message.error)
        else:
            self._say(job.node, "made" if job.kind == "make" else "done")

    def _died(self, job: Job, error: str) -> None:
        self.deaths[job] = self.deaths.get(job, 0) + 1
        if self.deaths[job] >= ATTEMPTS:
            self.board.store.record_failure(job.name, error)
            self._say(job.node, "failed", error=error)

    def _say(
        self, node: Node, phase: str, done: int = 0, total: int = 1, value: float | None = None, error: str = ""
    ) -> None:
        headline = TRAINERS[node.stage_settings.trainer].headline if node.make == "train" else "loss"
        place = self.positions[node.id]
        self.watch(Event(node, place, len(self.positions), phase, done, total, value, headline, error))
