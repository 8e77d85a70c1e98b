"""Every job has its turn once, after all that it needs, whoever does what."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from limberlm.study import Study
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.agenda import POLL, Agenda
from limberlm.study.run.jobs import Board, Job
from limberlm.study.run.runner import prepare
from limberlm.study.store.store import COMPLETE, Store


@pytest.fixture(scope="module")
def known(finished: Study) -> tuple[Workplace, Plan]:
    return prepare(finished.settings, finished.folder)


@pytest.fixture
def board(known: tuple[Workplace, Plan], tmp_path: Path) -> Board:
    """The finished study with nothing done."""
    (tmp_path / "nodes").mkdir()
    return Board(known[0], Store(tmp_path), known[1])


def do(board: Board, job: Job, finished: Study) -> None:
    """Do a job by copying what it made from the finished study."""
    done, here = Store(finished.out).node(job.node.id), board.store.node(job.node.id)
    for path in done.iterdir():
        part = (path / COMPLETE).is_file()
        if part and job.kind == "measure":
            shutil.copytree(path, here / path.name)
        elif path.is_file() and job.kind == "make":
            here.mkdir(exist_ok=True)
            shutil.copy(path, here / path.name)


def names(jobs: Iterable[Job]) -> list[str]:
    return [f"{job.node.stage}.{job.kind}" for job in jobs]


def drained(agenda: Agenda, board: Board, finished: Study) -> Iterator[Job]:
    while (job := agenda.next()) is not None:
        do(board, job, finished)
        agenda.ended(job)
        yield job


@pytest.mark.parametrize(
    ("in_order", "expected"),
    [
        (True, "base.make base.measure sft.make sft.measure dpo.make dpo.measure"),
        (False, "base.make sft.make dpo.make base.measure sft.measure dpo.measure"),
    ],
)
def test_jobs_come_as_planned_or_the_longest_way_first(
    board: Board, finished: Study, in_order: bool, expected: str
) -> None:
    agenda = Agenda(board, in_order=in_order)
    assert names(drained(agenda, board, finished)) == expected.split()
    assert agenda.is_empty
    assert set(board.states().values()) == {"done"}


def test_what_is_done_is_not_given_out_and_what_another_runner_does_is_found(board: Board, finished: Study) -> None:
    first = Agenda(board, in_order=True)
    base = first.next()
    assert base is not None
    do(board, base, finished)
    second = Agenda(Board(board.place, board.store, board.plan), in_order=False)
    assert names(drained(second, board, finished)) == "sft.make dpo.make base.measure sft.measure dpo.measure".split()
    first.ended(base)
    assert first.next() is None
    assert first.is_empty


def test_behind_a_failed_job_nothing_has_its_turn(board: Board, finished: Study) -> None:
    agenda = Agenda(board, in_order=False)
    done = []
    while (job := agenda.next()) is not None:
        done.append(job)
        if job.node.stage == "sft":
            board.store.record_failure(job.name, "on purpose")
        else:
            do(board, job, finished)
        agenda.ended(job)
    assert names(done) == ["base.make", "sft.make", "base.measure"]
    assert agenda.is_empty
    assert sorted(board.states().values()) == sorted("done done failed blocked blocked blocked".split())


def test_a_job_that_another_runner_is_at_comes_again_after_a_while(board: Board) -> None:
    now = [0.0]
    agenda = Agenda(board, in_order=True, clock=lambda: now[0])
    job = agenda.next()
    assert job is not None
    agenda.put_off(job)
    assert agenda.next() is None
    assert not agenda.is_empty
    now[0] = POLL
    assert agenda.next() == job


def test_an_end_that_is_not_to_be_seen_yet_is_looked_for_again(board: Board, finished: Study) -> None:
    now = [0.0]
    agenda = Agenda(board, in_order=True, clock=lambda: now[0])
    job = agenda.next()
    assert job is not None
    agenda.ended(job)  # told so, and not on disk: as a shared file system may have it for a while
    assert agenda.next() is None
    assert not agenda.is_empty
    do(board, job, finished)
    now[0] = POLL
    assert names(drained(agenda, board, finished))[:2] == ["base.measure", "sft.make"]
