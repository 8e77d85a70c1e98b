"""The runner: task after task, or several at once; what is there is kept, what failed holds up nothing but itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from limberlm.errors import NodeFailed
from limberlm.stages import TRAINERS
from limberlm.study.plan.tree import Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.crew import Crew
from limberlm.study.run.effort import Effort, Message
from limberlm.study.run.tasks import Board, Task
from limberlm.study.settings.config import StudySettings
from limberlm.study.settings.resolve import resolve
from limberlm.study.store.run_folder import open_run

POLL = 0.5  # seconds between looks at what other runners do
ATTEMPTS = 2  # of a task whose process dies under it


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
        jobs: so many tasks at once, each in a process of its own; 1 works in this process.
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
        failures = {task: store.failure(task.name) for task, state in board.states().items() if state == "failed"}
    if failures:
        task, error = next(iter(failures.items()))
        error = next(iter(str(error).splitlines()), "")  # a traceback may follow, which is in the store
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise NodeFailed(
            f"{task.node.id}: {error}{others}; all that does not depend on it is done; to try again: --retry"
        )
    return plan


class _Here:
    """This process as the only hand: it tells while it works, and has told all when a task is given back."""

    size = 1

    def __init__(self, board: Board, tell: Callable[[Task, Message], None]) -> None:
        self._effort, self._tell = Effort(board), tell

    def give(self, task: Task) -> None:
        self._effort.make(task, partial(self._tell, task))

    def hear(self, timeout: float) -> list[tuple[Task, Message]]:
        return []


class _Runner:
    def __init__(self, board: Board, watch: Watch) -> None:
        self.board, self.watch = board, watch
        self.positions = {node.id: position for position, node in enumerate(board.plan.nodes)}
        self.busy: set[Task] = set()
        self.deaths: dict[Task, int] = {}
        self.later: dict[Task, float] = {}

    def say_what_is_there(self) -> None:
        states = self.board.states()
        for node in self.board.plan.nodes:
            if all(states[task] == "done" for task in self.board.tasks if task.node == node):
                self._say(node, "kept")

    def run(self, hands: Crew | _Here) -> None:
        while True:
            ready = [task for task, state in self.board.states().items() if state == "ready"]
            if not ready and not self.busy:
                return
            self._give(hands, ready)
            for task, message in hands.hear(POLL if self.busy else 0):
                self.hear(task, message)
            if not self.busy and self.later:
                time.sleep(POLL)

    def _give(self, hands: Crew | _Here, ready: list[Task]) -> None:
        now = time.monotonic()
        free = [task for task in ready if task not in self.busy and self.later.get(task, now) <= now]
        if hands.size > 1:
            free.sort(key=self.board.urgency)
        for task in free[: hands.size - len(self.busy)]:
            self.busy.add(task)
            hands.give(task)

    def hear(self, task: Task, message: Message) -> None:
        if message.kind == "progress":
            self._say(task.node, message.phase, message.done, message.total, message.value)
            return
        self.busy.discard(task)
        self.later.pop(task, None)
        if message.kind == "elsewhere":
            self.later[task] = time.monotonic() + POLL
        elif message.kind == "died":
            self._died(task, message.error)
        elif message.kind == "failed":
            self._say(task.node, "failed", error=message.error)
        else:
            self._say(task.node, "made" if task.kind == "make" else "done")

    def _died(self, task: Task, error: str) -> None:
        self.deaths[task] = self.deaths.get(task, 0) + 1
        if self.deaths[task] >= ATTEMPTS:
            self.board.store.record_failure(task.name, error)
            self._say(task.node, "failed", error=error)

    def _say(
        self, node: Node, phase: str, done: int = 0, total: int = 1, value: float | None = None, error: str = ""
    ) -> None:
        headline = TRAINERS[node.stage_settings.trainer].headline if node.make == "train" else "loss"
        place = self.positions[node.id]
        self.watch(Event(node, place, len(self.positions), phase, done, total, value, headline, error))
