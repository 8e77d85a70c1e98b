"""Processes that share a piece of work, forked from one that has the libraries loaded: real ones, at little cost."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable


def forked(size: int, work: Callable[[int], int], patience: float = 120) -> list[int]:
    """The exit codes of `size` processes, each of which a launcher seems to have started; `work` gives them, by rank.

    Negative: the number of the signal that ended it. Those that are still there after `patience` seconds are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            code = 99
            try:
                code = work(rank)
            finally:
                os._exit(code)
        children.append(child)
    end, codes = time.monotonic() + patience, dict.fromkeys(children)
    while None in codes.values():
        for child in [child for child, code in codes.items() if code is None]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
            if (ended := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(ended[1])
        time.sleep(0.02)
    return [codes[child] for child in children]
