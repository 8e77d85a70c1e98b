"""Runs in two processes and their gradients: `python -m tests.interventions.behaviour.ranks BASES OUT KEY...`.

The libraries are imported once and the processes forked, which nothing here forbids: no thread was started and there is
no accelerator.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.interventions.behaviour.cases import CASES, Place
from tests.interventions.behaviour.runs import Setup, run

WORLD = 2


def setup(kind: str, single: bool = False) -> Setup:
    """Two processes with one micro-batch each, or one process with the same two.

    SGD: Adam's first step is the sign of a gradient, so that its rounding errors would be of the step's own size.
    """
    args = (("optim", "sgd"), ("learning_rate", 0.1))
    return Setup(kind, steps=2, window=2 if single else 1, dropout=0.0, args=args)


def one_rank(rank: int, base: Path, place: Place, out: Path, jobs: list[tuple[str, str]]) -> None:
    """All runs of one process."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    cases = {case.key: case for case in CASES}
    for kind, key in jobs:
        name = f"{kind} {key}"
        callbacks = [cases[key].build(cases[key].weight, place)] if key else []
        ended = run(base, out / name, setup(kind), callbacks)
        torch.save(ended.gradients, out / f"{name}.{rank}.pt")
    dist.destroy_process_group()


def main(base: str, adapter: str, out: str, jobs: str) -> None:
    """Fork the processes and wait for them."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=_port(), ACCELERATE_USE_CPU="true")
    place = Place(Path(base), Path(adapter))
    given: Any = (Path(base), place, Path(out), json.loads(jobs))
    torch.multiprocessing.start_processes(one_rank, given, nprocs=WORLD, start_method="fork")


def _port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
