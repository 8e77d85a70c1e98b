"""Doing one job under its lease, and telling how it goes: the same in this process and in a worker's."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from limberlm.errors import Lost, NodeFailed, UserError, storage_problem
from limberlm.study.node.node import Train
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.jobs import Board, Job
from limberlm.study.store.exchange import exchange
from limberlm.study.store.lease import LeaseLost, Leases
from limberlm.study.store.remote import Remote
from limberlm.study.store.store import Store

NO_MEMORY = "out of memory: a smaller per_device_train_batch_size or max_length helps"


Tell = Callable[["Message"], None]


@dataclass(frozen=True)
class Message:
    """What is told of a job: how far it is, or how it ended.

    `progress` comes any number of times; then one of `finished`, `failed` (recorded in the store), `elsewhere` (another
    process has it), and, of a worker process or one of those that train a stage together, `died`.
    """

    kind: Literal["progress", "finished", "failed", "elsewhere", "died"]
    phase: str = ""
    done: int = 0
    total: int = 1
    value: float | None = None
    error: str = ""

    def as_line(self) -> str:
        """The message as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


class Effort:
    """Does jobs of a study, one after the other, as one owner of leases; `train_with` trains, if not this process."""

    def __init__(self, board: Board, leases: Leases, train_with: Train | None = None) -> None:
        self.board, self.leases, self.train_with = board, leases, train_with

    def make(self, job: Job, tell: Tell) -> None:
        """Do a job, unless another process has it or it is done by now.

        Raises:
            UserError: the study cannot go on: wrong settings that only training shows, or a full disk.

        """
        if not self.leases.take(job.name):
            tell(Message("elsewhere"))
            return
        with self.leases.kept(job.name):
            if not self.board.is_ready(job):  # another process ended it between the look and the lease
                tell(Message("elsewhere"))
                return
            tell(self._made(job, tell))

    def _made(self, job: Job, tell: Tell) -> Message:
        def report(phase: str, done: int, total: int, value: float | None) -> None:
            tell(Message("progress", phase, done, total, value))

        try:
            self.board.perform(job, report, lambda: self.leases.holding(job.name), self.train_with)
        except LeaseLost:
            return Message("elsewhere")
        except (torch.OutOfMemoryError, MemoryError):
            return self._failed(job, NO_MEMORY)
        except Lost as error:
            return Message("died", error=str(error))
        except NodeFailed as error:
            return self._failed(job, str(error))
        except UserError:
            raise
        except Exception as error:
            if "can't allocate memory" in str(error):  # torch on a CPU
                return self._failed(job, NO_MEMORY)
            problem = storage_problem(error)
            if problem:
                place = getattr(error, "filename", None) or self.board.store.root
                raise UserError(f"{place}: {problem}") from error
            return self._failed(job, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        return Message("finished")

    def _failed(self, job: Job, error: str) -> Message:
        self.board.store.record_failure(job.name, error)
        return Message("failed", error=error)


def carry_out(
    order: str, place: Workplace, leases: Leases, root: Path, tell: Tell, train_with: Train | None = None
) -> None:
    """Do a job that another process wrote down (`Board.order`).

    Raises:
        UserError: this process finds other inputs than that one, or the study cannot go on.

    """
    board, job = taken(order, place, root)
    if board.store.remote is not None:
        _fetch(board, board.store.remote, job)
        if board.is_done(job):  # by a process that ended before it told so
            tell(Message("finished"))
            return
    Effort(board, leases, train_with).make(job, tell)


def taken(order: str, place: Workplace, root: Path) -> tuple[Board, Job]:
    """A job that another process wrote down, and as much of the study's board as it takes.

    Raises:
        UserError: this process finds other inputs than that one.

    """
    content = json.loads(order)
    plan = Plan.model_validate(content["plan"])
    remote = Remote(content["store"]) if content["store"] else None
    board, job = Board(place, Store(root, remote), plan), Job(content["kind"], plan.nodes[-1])
    if content["inputs"] != board.inputs(job):
        raise UserError(f"{root}: the study's base, rows or probe changed while it ran; run it again")
    return board, job


def _fetch(board: Board, remote: Remote, job: Job) -> None:
    """What a job needs, and what of it is there already; the runner gives no job that failed by its own record."""
    before = {*job.node.path[:-1], *job.node.after}
    lacking = exchange(board.store, remote, dict.fromkeys(sorted(before)) | board.names(job.node))
    if lost := before & lacking:
        raise UserError(f"{remote.url}/nodes/{min(lost)}: is gone; run the same command again")
    board.store.forget_failures(job.name)
