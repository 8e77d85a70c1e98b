"""The processes that measure one checkpoint: they tell each other JSON and tensors over gloo, never a pickle."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from limberlm.errors import LimberError, Lost, UserError, reason_of
from limberlm.observe.forward.budget import Choice
from limberlm.observe.probe.probe_set import ProbeSet

PATIENCE = timedelta(days=2)
"""How long a process waits for the slowest: a dead one is noticed by its closed connection, long before."""

LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun and accelerate say to a process, in its environment."""


@dataclass(frozen=True)
class Processes:
    """This process, number `rank` of `size`; alone by default, where every exchange is with itself."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def joined(cls) -> Processes:
        """All processes of torch.distributed, which is started here where a launcher's settings say how.

        Raises:
            UserError: it is not started, and there are no such settings.
        """
        if not dist.is_initialized():
            if lacking := [name for name in LAUNCHED if name not in os.environ]:
                raise UserError(f"distributed: {lacking[0]} is not set; start with torchrun or accelerate launch")
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
            dist.init_process_group()  # gloo on the host, and nccl where there is CUDA, should a training follow
            atexit.register(_leave)
        assert dist.group.WORLD is not None
        return cls(dist.get_rank(), dist.get_world_size(), _gloo(dist.group.WORLD))

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """All go on after the block, or none does: what is raised in one process is raised in each.

        Raises:
            UserError: as raised in the first process that did; a LimberError, which names it, for other errors.
            Lost: a process has ended.
        """
        problem: Exception | None = None
        try:
            yield
        except Lost:
            raise
        except Exception as error:
            if self.size == 1 or (isinstance(error, LimberError) and error.everywhere):
                raise
            problem = error
        told = self.gathered(None if problem is None else [isinstance(problem, UserError), reason_of(problem)])
        for rank, what in enumerate(told):
            if what is None:
                continue
            mended, reason = what
            agreed = UserError(reason) if mended else LimberError(f"process {rank} of {self.size}: {reason}")
            agreed.everywhere = True
            raise agreed from problem

    def gathered(self, value: Any) -> list[Any]:
        """What each process gives, by rank; anything that JSON can hold."""
        if self.size == 1:
            return [value]
        mine = _encoded(value)
        with _noticed():
            sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor([len(mine)]), group=self.group)
            longest = max(int(size) for size in sizes)
            found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(found, torch.nn.functional.pad(mine, (0, longest - len(mine))), group=self.group)
        return [_decoded(part[: int(size)]) for part, size in zip(found, sizes, strict=True)]

    def send(self, tensors: Mapping[str, Tensor], to: int) -> None:
        """Send named tensors of the host to process `to`, which receives them; one at a time, and none is copied."""
        header = [[name, str(part.dtype).removeprefix("torch."), list(part.shape)] for name, part in tensors.items()]
        written = _encoded(header)
        with _noticed():
            for part in (torch.tensor([len(written)]), written, *tensors.values()):
                if part.numel():
                    dist.send(part.contiguous(), to, group=self.group)

    def received(self, source: int) -> dict[str, Tensor]:
        """What process `source` sends."""
        size = torch.zeros(1, dtype=torch.long)
        with _noticed():
            dist.recv(size, source, group=self.group)
            written = torch.zeros(int(size), dtype=torch.uint8)
            dist.recv(written, source, group=self.group)
            found = {name: torch.empty(shape, dtype=getattr(torch, kind)) for name, kind, shape in _decoded(written)}
            for part in found.values():
                if part.numel():
                    dist.recv(part, source, group=self.group)
        return found


def one_choice(choice: Choice, probe: ProbeSet, processes: Processes) -> Choice:
    """The least of what the processes have memory for.

    Raises:
        UserError: their probes differ.
    """
    with processes.agreeing():
        told = processes.gathered([probe.digest, asdict(choice)])
        for rank, (digest, _) in enumerate(told):
            if digest != told[0][0]:
                raise UserError(f"probe: that of process {rank} differs from that of process 0; give all the same")
    choices = [Choice(**{**fields, "names": tuple(fields["names"])}) for _, fields in told]
    return min(choices, key=lambda one: (len(one.names), one.blocks, one.batch_size))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def _gloo(world: dist.ProcessGroup) -> dist.ProcessGroup | None:
    """A group of our own, of all processes: it may wait longer than theirs, and crosses no exchange of theirs."""
    with _noticed():
        made: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=PATIENCE)
        return made


@contextmanager
def _noticed() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own
        raise Lost("one of the processes has ended: killed, or out of memory") from error


def _encoded(value: Any) -> Tensor:
    """JSON as bytes [n]; floats keep every digit, and NaN is allowed."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decoded(written: Tensor) -> Any:
    return json.loads(written.numpy().tobytes())
