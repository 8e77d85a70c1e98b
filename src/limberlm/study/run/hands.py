"""Whoever does jobs: this process, worker processes of this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal, Protocol

from limberlm.errors import UserError
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.crew import Crew
from limberlm.study.run.effort import Effort, Message
from limberlm.study.run.jobs import Board, Job
from limberlm.study.run.shares import refuse_unshared
from limberlm.study.settings.config import StudySettings
from limberlm.study.store.lease import LEASES, Leases

Tell = Callable[[Job, Message], None]


class Hands(Protocol):
    """Whoever does jobs, so many at once."""

    @property
    def size(self) -> int:
        """How many jobs at once."""

    def give(self, job: Job) -> None:
        """Let a job be done."""

    def hear(self, timeout: float) -> list[tuple[Job, Message]]:
        """What was told of jobs since, waiting at most so many seconds for the first of it."""


@dataclass(frozen=True)
class Engine:
    """Where jobs are done.

    Attributes:
        name: `local`, on this machine, or `ray`, as tasks of a Ray cluster.
        jobs: so many at once; None for one on this machine, and for as many as fit on a cluster.
        address: the cluster's, as HOST:PORT or `auto`; None for `RAY_ADDRESS`, or a cluster of this machine alone.

    """

    name: Literal["local", "ray"] = "local"
    jobs: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.name != "ray":
            raise UserError(f"--address {self.address} without --engine ray, its engine: add that, or leave it out")
        if self.name == "ray" and find_spec("ray") is None:
            raise UserError('--engine ray: Ray is not installed; pip install "limberlm[ray]"')

    def check(self, settings: StudySettings, *, stored: bool = False) -> None:
        """Look at what a study asks of the engine, before anything is planned or written; `stored`: with a store.

        Raises:
            UserError: the engine cannot do it.

        """
        for name, stage in settings.stages.items() if self.name == "ray" else ():
            gpus = settings.resources_of(stage).gpus or 0
            where = f"stages.{name}.resources.gpus: {gpus:g}"
            if gpus > 1 and gpus % 1:
                raise UserError(f"{where}: several GPUs are whole ones; give {gpus // 1:g}, or {gpus // 1 + 1:g}")
            if gpus > 1 and stored:
                raise UserError(
                    f"{where}: those who train a stage together write to one folder, which --store is not; give 1, or "
                    "an --out that every machine sees and no --store"
                )

    def check_plan(self, place: Workplace, plan: Plan) -> None:
        """Look at what a plan asks of the engine, before anything is written.

        Raises:
            UserError: a stage that several GPUs are to train would not be trained as on one.

        """
        if self.name == "ray":
            refuse_unshared(place, plan)

    def hands(self, board: Board, tell: Tell) -> AbstractContextManager[Hands]:
        """The hands on a study; `tell` hears of jobs that this process does.

        Raises:
            UserError: the engine is not installed, or its cluster does not answer.

        """
        if self.name == "ray":
            from limberlm.study.run.ray import RayCrew

            return RayCrew(board, self.jobs, self.address)
        size = min(self.jobs or 1, sum(state != "done" for state in board.states().values()))
        return Crew(board, size) if size > 1 else nullcontext(_Here(board, tell))


class _Here:
    """This process as the only hand: it tells while it works, and has told all when a job is given back."""

    size = 1

    def __init__(self, board: Board, tell: Tell) -> None:
        self._effort, self._tell = Effort(board, Leases(board.store.root / LEASES)), tell

    def give(self, job: Job) -> None:
        self._effort.make(job, partial(self._tell, job))

    def hear(self, timeout: float) -> list[tuple[Job, Message]]:
        return []
