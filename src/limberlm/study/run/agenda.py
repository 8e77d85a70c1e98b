"""What to do next: each job once its turn has come, without a look at the whole study for every one of them."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable

from limberlm.study.run.jobs import Board, Job

POLL = 0.5  # seconds between looks at what other runners do


class Agenda:
    """The jobs whose turn has come, the longest way through the tree first if several are done at once.

    Held in memory: a job is looked up on disk when its turn comes, so handing one out costs the same however many there
    are. What other runners do is found then too, for their jobs are in this runner's turn as well.

    Args:
        board: the study's jobs.
        in_order: one after the other as planned, rather than the most urgent first.
        clock: seconds that never go back.

    """

    def __init__(self, board: Board, *, in_order: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.board, self._clock = board, clock
        states = board.states()
        self._rank = {job: place for place, job in enumerate(board.jobs if in_order else board.by_urgency)}
        self._behind: dict[Job, list[Job]] = defaultdict(list)
        self._wanting: dict[Job, int] = {}
        self._turn: list[tuple[int, Job]] = []
        self._later: list[tuple[float, int, Job]] = []
        for job, state in states.items():
            if state == "ready":
                self._call(job)
            elif state == "waiting":
                before = {other for other in board.before(job) if states[other] != "done"}
                self._wanting[job] = len(before)
                for other in before:
                    self._behind[other].append(job)

    @property
    def is_empty(self) -> bool:
        """Whether no job's turn has come or will come without another's end."""
        return not self._turn and not self._later

    @property
    def has_turn(self) -> bool:
        """Whether a job's turn may have come now."""
        return bool(self._turn)

    def next(self) -> Job | None:
        """The job to do now; None if none's turn has come."""
        while self._later and self._later[0][0] <= self._clock():
            self._call(heapq.heappop(self._later)[2])
        while self._turn:
            job = heapq.heappop(self._turn)[1]
            if self.board.is_ready(job):
                return job
            self.ended(job)
        return None

    def ended(self, job: Job) -> None:
        """A job is done, or has failed: those that waited for it alone have their turn, or never will."""
        if self.board.is_done(job):
            for other in self._behind.pop(job, ()):
                self._wanting[other] -= 1
                if not self._wanting[other]:
                    self._call(other)
        elif not self.board.has_failed(job):
            self.put_off(job)  # a shared file system may show it here only in a while

    def again(self, job: Job) -> None:
        """A job that was given out is still to be done."""
        self._call(job)

    def put_off(self, job: Job) -> None:
        """Another runner is at the job: look again in a while."""
        heapq.heappush(self._later, (self._clock() + POLL, self._rank[job], job))

    def _call(self, job: Job) -> None:
        heapq.heappush(self._turn, (self._rank[job], job))
