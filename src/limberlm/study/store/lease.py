"""Leases: which process is at work on what, among any number of processes on one folder.

A lease is a small file that its owner rewrites every few seconds. It is stale when its owner is known to be dead, or
when it has not changed for a while by the *observer's own* monotonic clock: no two clocks are ever compared, so one
that jumps or differs between machines takes nothing from anyone. An owner that slept through its lease finds out
before it publishes (`holding`), and what it made is thrown away.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from limberlm.errors import LimberError

LEASES = "leases"  # the folder of a run directory that they lie in
BEAT = 2.0  # seconds between signs of life
STALE = 30.0  # seconds without one after which a lease may be taken over


class LeaseLost(LimberError):
    """Another process has taken over, for this one gave no sign of life."""


class Leases:
    """The leases of one process in a folder.

    Args:
        folder: where leases lie; made with the first that is taken.
        stale: seconds without a sign of life after which a lease may be taken over.
        beat: seconds between this process's signs of life.
        clock: seconds that never go back.
        owner: whom its leases name; default: somebody new.

    """

    def __init__(
        self,
        folder: Path,
        *,
        stale: float = STALE,
        beat: float = BEAT,
        clock: Callable[[], float] = time.monotonic,
        owner: str | None = None,
    ) -> None:
        self.folder, self.stale, self.beat, self.clock = folder, stale, beat, clock
        self.owner = owner or uuid.uuid4().hex
        self._seen: dict[str, tuple[str, float]] = {}

    def take(self, job: str) -> bool:
        """Take a lease that is free, stale or already this process's; False while another holds it."""
        with self._guard():
            if not self._is_free(job):
                return False
            self._write(job, 0)
            return True

    def clear(self, job: str, dead: str | None = None) -> bool:
        """Remove a lease that is stale, or whose owner is known to be `dead`; False while another holds it."""
        with self._guard():
            content = self._read(job)
            gone = content is None or _parsed(content).get("owner") == dead or self._is_free(job)
            if gone:
                self._path(job).unlink(missing_ok=True)
            return gone

    def held_by_another(self, job: str) -> bool:
        """Whether another process, as far as is known alive, holds a lease; a look that writes nothing."""
        return not self._is_free(job)

    @contextmanager
    def kept(self, job: str) -> Iterator[None]:
        """Give signs of life while the block runs, then give the lease back; it must have been taken."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beats, args=(job, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with self._guard():
                if self._is_mine(job):
                    self._path(job).unlink(missing_ok=True)

    @contextmanager
    def holding(self, job: str) -> Iterator[None]:
        """Nobody can take the lease while the block runs: what it publishes, it publishes as the owner.

        Raises:
            LeaseLost: the lease is another's by now.

        """
        with self._guard():
            if not self._is_mine(job):
                raise LeaseLost(f"{job}: another process took over, for this one gave no sign of life; left to it")
            yield

    def _beats(self, job: str, ended: threading.Event) -> None:
        count = 0
        while not ended.wait(self.beat):
            count += 1
            with suppress(OSError), self._guard():
                if not self._is_mine(job):
                    return
                self._write(job, count)

    def _is_free(self, job: str) -> bool:
        content = self._read(job)
        if content is None:
            self._seen.pop(job, None)
            return True
        holder = _parsed(content)
        if holder.get("owner") == self.owner or _is_dead(holder):
            return True
        now = self.clock()
        before, since = self._seen.get(job, ("", now))
        if before != content:
            self._seen[job] = (content, now)
            return False
        return now - since > self.stale

    def _is_mine(self, job: str) -> bool:
        content = self._read(job)
        return content is not None and _parsed(content).get("owner") == self.owner

    def _path(self, job: str) -> Path:
        return self.folder / f"{job}.lease"

    def _read(self, job: str) -> str | None:
        try:
            return self._path(job).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _write(self, job: str, count: int) -> None:
        content = {"owner": self.owner, "machine": _machine(), "pid": os.getpid(), "beat": count}
        scratch = self.folder / f".{self.owner}.tmp"
        scratch.write_text(json.dumps(content), encoding="utf-8")
        os.replace(scratch, self._path(job))

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """One process, and one thread of it, at a time; the system lets go if it dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return platform.node() + (" " + boot.read_text().strip() if boot.is_file() else "")


def _parsed(content: str) -> dict[str, object]:
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict):
            return found
    return {}


def _is_dead(holder: dict[str, object]) -> bool:
    """Whether the holder's process is known to be gone: only of this machine's can that be known."""
    pid = holder.get("pid")
    if holder.get("machine") != _machine() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
