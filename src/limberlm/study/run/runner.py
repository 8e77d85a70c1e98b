"""The runner: job after job, or several at once; what is there is kept, what failed holds up nothing but itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limberlm.errors import NodeFailed
from limberlm.stages.trainers import TRAINERS
from limberlm.study.plan.plan import Node, Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.agenda import POLL, Agenda
from limberlm.study.run.effort import Message
from limberlm.study.run.hands import Engine, Hands
from limberlm.study.run.jobs import Board, Job
from limberlm.study.settings.config import StudySettings
from limberlm.study.settings.resolve import as_yaml, resolve
from limberlm.study.store.exchange import exchange
from limberlm.study.store.remote import Remote
from limberlm.study.store.run_folder import open_run

ATTEMPTS = 3  # of a job whose process dies under it (our choice)


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
HERE = Engine()


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
    engine: Engine = HERE,
    retry: bool = False,
    remote: Remote | None = None,
) -> Plan:
    """Run whatever of the study is not there yet, in `out`.

    Args:
        settings: the study.
        out: its run directory.
        folder: where its relative paths start.
        watch: called with every event.
        engine: where, and how many jobs at once.
        retry: try again what failed before.
        remote: its double on object storage: what is there is brought here first, what is made goes there at once.

    Raises:
        UserError: wrong settings, a folder that cannot be used, or a cluster or storage that does not answer.
        NodeFailed: a node failed, now or before; all that does not depend on it is there.

    """
    engine.check(settings, stored=remote is not None)
    if remote is not None:
        remote.refuse_foreign(settings.name)
    place, plan = prepare(settings, folder)
    engine.check_plan(place, plan)
    with open_run(out, place.settings, plan.as_json(), remote) as store:
        if retry:
            store.forget_failures()
        board = Board(place, store, plan)
        if remote is not None:
            remote.begin(as_yaml(place.settings), plan.as_json())
            exchange(store, remote, {name: is_ for node in plan.nodes for name, is_ in board.names(node).items()})
        runner = _Runner(board, watch)
        runner.say_what_is_there()
        with engine.hands(board, runner.hear) as hands:
            runner.run(hands)
        failed = [job for job, state in board.states().items() if state == "failed"]
        failures = {job: store.failure(job.name) for job in failed} | runner.failed
    if failures:
        job, error = next(iter(failures.items()))
        error = next(iter(str(error).splitlines()), "")  # a traceback may follow, which is in the store
        others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise NodeFailed(
            f"{job.node.id}: {error}{others}; all that does not depend on it is done; to try again: --retry"
        )
    return plan


class _Runner:
    def __init__(self, board: Board, watch: Watch) -> None:
        self.board, self.watch = board, watch
        self.positions = {node.id: position for position, node in enumerate(board.plan.nodes)}
        self.busy: set[Job] = set()
        self.deaths: Counter[Job] = Counter()
        self.failed: dict[Job, str] = {}

    def say_what_is_there(self) -> None:
        left = {job.node for job, state in self.board.states().items() if state != "done"}
        for node in self.board.plan.nodes:
            if node not in left:
                self._say(node, "kept")

    def run(self, hands: Hands) -> None:
        self.agenda = Agenda(self.board, in_order=hands.size == 1)
        while True:
            self._give(hands)
            if not self.busy and self.agenda.is_empty:
                return
            for job, message in hands.hear(POLL if self.busy else 0):
                self.hear(job, message)
            if not self.busy and not self.agenda.has_turn:
                time.sleep(POLL)

    def _give(self, hands: Hands) -> None:
        while len(self.busy) < hands.size and (job := self.agenda.next()) is not None:
            self.busy.add(job)
            hands.give(job)

    def hear(self, job: Job, message: Message) -> None:
        if message.kind == "progress":
            self._say(job.node, message.phase, message.done, message.total, message.value)
            return
        self.busy.discard(job)
        if message.kind == "elsewhere":
            self.agenda.put_off(job)
        elif message.kind == "died":
            self._died(job, message.error)
        elif message.kind == "failed":
            self._failed(job, message.error)
        else:
            self.agenda.ended(job)
            self._say(job.node, "made" if job.kind == "make" else "done")

    def _died(self, job: Job, error: str) -> None:
        self.deaths[job] += 1
        if self.deaths[job] < ATTEMPTS:
            self.agenda.again(job)
            return
        error = f"{error} ({ATTEMPTS} times)"
        self.board.store.record_failure(job.name, error)
        self._failed(job, error)

    def _failed(self, job: Job, error: str) -> None:
        self.failed[job] = error
        self._say(job.node, "failed", error=error)

    def _say(
        self, node: Node, phase: str, done: int = 0, total: int = 1, value: float | None = None, error: str = ""
    ) -> None:
        headline = TRAINERS[node.stage_settings.trainer].headline if node.make == "train" else "loss"
        place = self.positions[node.id]
        self.watch(Event(node, place, len(self.positions), phase, done, total, value, headline, error))
