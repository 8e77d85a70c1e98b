"""Kills of those who do jobs, at a moment that a test chooses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from limberlm.study.run.ray_task import progress_file


@contextmanager
def killing(run: Path, jobs: str, times: int, phase: str | None = None) -> Iterator[set[str]]:
    """Kill whoever does jobs of such names, so many times; gives the owners of their leases.

    As soon as the lease is taken, or once a Ray worker has told that it is in that phase of it.
    """
    killed, ended = set[str](), Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for path in (run / "leases").glob(f"{jobs}.lease"):
                with suppress(FileNotFoundError):
                    lease = json.loads(path.read_text())
                    if lease["owner"] in killed or len(killed) == times:
                        continue
                    if phase is None or json.loads(progress_file(run, lease["owner"]).read_text())["phase"] == phase:
                        killed.add(lease["owner"])
                        os.kill(lease["pid"], signal.SIGKILL)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()
