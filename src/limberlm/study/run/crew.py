"""Worker processes that do jobs: lines of JSON go in and out, and nothing else is shared but the run directory."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from limberlm.errors import UserError
from limberlm.study.run.effort import Message
from limberlm.study.run.jobs import Board, Job

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
LOGS = "logs"


class _Worker:
    """One process and what it is at."""

    def __init__(self, root: Path, number: int, threads: int, heard: queue.Queue[tuple[_Worker, str | None]]) -> None:
        log = root / LOGS / f"worker-{number}.log"
        log.parent.mkdir(exist_ok=True)
        environment = {name: str(threads) for name in THREADS} | os.environ
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "limberlm.study.run.worker", str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=environment,
            )
        self.number, self.log = number, log
        self.job: Job | None = None
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def give(self, job: Job, order: str) -> None:
        self.job = job
        with suppress(BrokenPipeError):  # its death is heard
            stdin = self._pipe(self.process.stdin)
            stdin.write(order + "\n")
            stdin.flush()

    def end(self) -> None:
        """Let it go: an idle worker ends when its input does, and a busy one too."""
        with suppress(OSError):
            self._pipe(self.process.stdin).close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _listen(self, heard: queue.Queue[tuple[_Worker, str | None]]) -> None:
        for line in self._pipe(self.process.stdout):
            heard.put((self, line))
        heard.put((self, None))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class Crew:
    """So many workers on a run directory; one that dies is replaced. A context manager: at its end all are gone."""

    def __init__(self, board: Board, size: int) -> None:
        self.root, self.size, self._order = board.store.root, size, board.order
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // size)
        self._heard: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Crew:
        self._workers = [self._hire(number) for number in range(self.size)]
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.end()

    def _hire(self, number: int) -> _Worker:
        return _Worker(self.root, number, self._threads, self._heard)

    def give(self, job: Job) -> None:
        """Give a job to a worker that has none."""
        next(worker for worker in self._workers if worker.job is None).give(job, self._order(job))

    def hear(self, timeout: float) -> list[tuple[Job, Message]]:
        """What workers have told since, waiting for the first of it so many seconds.

        Raises:
            UserError: a worker found that the study cannot go on.

        """
        told = []
        with suppress(queue.Empty):
            item = self._heard.get(timeout=timeout) if timeout else self._heard.get_nowait()
            while True:
                told += list(self._understood(*item))
                item = self._heard.get_nowait()
        return told

    def _understood(self, worker: _Worker, line: str | None) -> Iterator[tuple[Job, Message]]:
        job = worker.job
        if line is None:
            self._workers[worker.number] = self._hire(worker.number)
            if job is not None:
                yield job, Message("died", error=_death(worker))
            return
        content = json.loads(line)
        if "user_error" in content:
            raise UserError(content["user_error"])
        message = Message(**content)
        if message.kind != "progress":
            worker.job = None
        assert job is not None
        yield job, message


def _death(worker: _Worker) -> str:
    code = worker.process.wait()
    how = f"was killed by signal {-code}, as by the system when memory runs out" if code < 0 else f"ended with {code}"
    return f"its process {how}; see {worker.log}"
