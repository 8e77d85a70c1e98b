"""Jobs as tasks of a Ray cluster whose machines all see the run directory: Ray finds them a place, we all the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from limberlm.errors import UserError
from limberlm.study.plan.plan import Node
from limberlm.study.run.effort import Message
from limberlm.study.run.jobs import Board, Job
from limberlm.study.run.ray_cluster import Cluster
from limberlm.study.run.ray_task import LOGS, perform, progress_file
from limberlm.study.settings.stage import ResourceSettings
from limberlm.study.store.exchange import exchange
from limberlm.study.store.lease import LEASES, Leases

LOOK = 1.0  # seconds between looks at how far tasks are


@dataclass(frozen=True)
class _Given:
    """A job that was given as a task, and the owner that its lease names."""

    job: Job
    owner: str


class RayCrew:
    """A study's hands on a cluster. A context manager: at its end no task of ours is left.

    Args:
        board: the study's jobs.
        jobs: tasks at once, at most; None for as many as fit, and one that waits: it tells a cluster to grow.
        address: the cluster's; None for `RAY_ADDRESS`, or a cluster of this machine alone.

    """

    def __init__(self, board: Board, jobs: int | None, address: str | None) -> None:
        self._board, self._jobs, self._cluster = board, jobs, Cluster(address)
        self._root = board.store.root.resolve()
        self._leases = Leases(self._root / LEASES)
        self._mark = self._root / LOGS / f"{uuid4().hex}.run"
        self._given: dict[Any, _Given] = {}
        self._elsewhere: list[Job] = []
        self._heard: dict[Job, str] = {}
        self._looked = 0.0

    def __enter__(self) -> RayCrew:
        stages = {node.stage: node for node in self._board.plan.nodes}
        wanted = {name: self._resources(node) for name, node in stages.items()}
        self._cluster.connect()
        try:
            self._cluster.refuse_what_fits_nowhere(wanted)
            self._mark.parent.mkdir(exist_ok=True)
            self._mark.touch()
            self._wanted = list(wanted.values())
            self._tasks = {gpu: self._cluster.ray.remote(max_calls=int(gpu))(perform) for gpu in (False, True)}
        except BaseException:
            self._cluster.leave()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for task in self._given:
            self._cluster.ray.cancel(task, force=True)
        self._cluster.leave()
        for given in self._given.values():
            self._forget(given)
        self._mark.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """How many tasks at once."""
        return self._jobs or self._cluster.slots(self._wanted) + 1

    def give(self, job: Job) -> None:
        """Give a job as a task, unless another runner is at it."""
        if not self._leases.clear(job.name):
            self._elsewhere.append(job)
            return
        owner, asked, team = uuid4().hex, self._resources(job.node), None
        options = self._cluster.options(asked)
        own_process = options["num_gpus"] > 0
        if job.kind == "make" and job.node.make == "train" and asked.processes > 1:
            team = {"size": asked.processes, "cpus": asked.cpus, "custom": dict(asked.custom)}
            options = {"num_cpus": 0, "num_gpus": 0}  # the team takes them, while the task waits for it
        made = self._tasks[own_process].options(name=job.name, max_retries=0, **options)
        task = made.remote(self._board.order(job), str(self._root), str(self._mark), owner, asked.cpus, team)
        self._given[task] = _Given(job, owner)

    def hear(self, timeout: float) -> list[tuple[Job, Message]]:
        """What was told of jobs since, waiting at most so many seconds for one to end.

        Raises:
            UserError: a task found that the study cannot go on.

        """
        told = [(job, Message("elsewhere")) for job in self._elsewhere]
        self._elsewhere = []
        self._wait(1, 0 if told else timeout)
        told += [(self._given[task].job, self._end(task)) for task in self._wait(len(self._given), 0)]
        return [*told, *self._progress()]

    def _wait(self, count: int, timeout: float) -> list[Any]:
        """The tasks that have ended, waiting for so many of them."""
        tasks = list(self._given)
        return list(self._cluster.ray.wait(tasks, num_returns=count, timeout=timeout)[0]) if tasks else []

    def _end(self, task: Any) -> Message:
        errors = self._cluster.ray.exceptions
        try:
            content = self._cluster.ray.get(task)
        except errors.RayTaskError as error:
            raise UserError(f"a Ray worker cannot do its task: {_first_line(error.cause or error)}") from None
        except errors.RayError as error:
            content = {"kind": "died", "error": f"its Ray worker died: {_first_line(error)}"}
        given = self._given.pop(task)
        self._forget(given)
        if "user_error" in content:
            raise UserError(content["user_error"])
        if self._board.store.remote is not None:
            self._take_over(given.job, content)
        return Message(**content)

    def _take_over(self, job: Job, content: dict[str, Any]) -> None:
        """What a task left in a folder that may be another machine's."""
        store = self._board.store
        if content["kind"] == "finished" and store.remote is not None:
            exchange(store, store.remote, self._board.names(job.node))
        elif content["kind"] == "failed":
            store.record_failure(job.name, content["error"])

    def _forget(self, given: _Given) -> None:
        self._leases.clear(given.job.name, dead=given.owner)
        self._heard.pop(given.job, None)
        progress_file(self._root, given.owner).unlink(missing_ok=True)

    def _progress(self) -> Iterator[tuple[Job, Message]]:
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        for given in self._given.values():
            with suppress(OSError):  # it has not begun
                line = progress_file(self._root, given.owner).read_text(encoding="utf-8")
                if line != self._heard.get(given.job):
                    self._heard[given.job] = line
                    yield given.job, Message(**json.loads(line))

    def _resources(self, node: Node) -> ResourceSettings:
        return self._board.place.settings.resources_of(node.settings)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
