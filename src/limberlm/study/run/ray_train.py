"""A stage trained by several processes with a GPU each, by Ray Train's TorchTrainer; the task of the node waits.

Every process builds the same start and trains on its part of each batch; torch adds up their gradients. The first one
writes what is kept, in the folder that the task gives it, and the task seals it as it does any node.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from limberlm.errors import LimberError, Lost, reason_of
from limberlm.study.node.node import Report, train
from limberlm.study.plan.plan import Node
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.effort import Message, taken
from limberlm.study.run.ray_task import Note, begin, progress_file, study
from limberlm.study.store.store import Store

ASIDE = "ray"  # in the node's folder while it is trained: what Ray Train and the other processes write


@dataclass(frozen=True)
class Team:
    """The processes that train a stage together, all on one machine.

    Attributes:
        order: the job, as `Board.order` wrote it.
        root: the run directory.
        owner: whom the job's lease names.
        size: how many processes.
        cpus: cores of each, and threads of arithmetic.
        custom: the cluster's own resources that all of them together take.

    """

    order: str
    root: str
    owner: str
    size: int
    cpus: int
    custom: Mapping[str, float]

    def train(self, place: Workplace, store: Store, node: Node, folder: Path, report: Report) -> dict[str, object]:
        """As `node.train`, done by the team.

        Raises:
            UserError: one of them found that the study cannot go on.
            NodeFailed: the training went wrong.
            Lost: one of them died, or Ray could not start them.

        """
        from ray.exceptions import RayError
        from ray.train import TrainingFailedError

        try:
            told: dict[str, object] = self._trainer(folder).fit().return_value
        except TrainingFailedError as error:
            raise _cause(error) from error
        except RayError as error:
            raise Lost(f"what leads its training died: {reason_of(error)}") from error
        shutil.rmtree(folder / ASIDE, ignore_errors=True)
        return told

    def _trainer(self, folder: Path) -> Any:
        import ray.train
        import ray.train.torch

        os.environ["RAY_TRAIN_ENABLE_PRINT_PATCH"] = "0"  # `datasets` reads, by dill, what Python's disassembler prints
        ours: Any = ray.train  # whose annotations are still those of its first version
        parts = {name: value / self.size for name, value in self.custom.items()}
        return ours.torch.TorchTrainer(
            _work,
            train_loop_config=asdict(self) | {"folder": str(folder)},
            torch_config=ours.torch.TorchConfig(backend="nccl" if torch.distributed.is_nccl_available() else "gloo"),
            scaling_config=ours.ScalingConfig(
                num_workers=self.size,
                use_gpu=True,
                resources_per_worker={"CPU": self.cpus, "GPU": 1, **parts},
                placement_strategy="STRICT_PACK",
            ),
            run_config=ours.RunConfig(
                name=folder.name,
                storage_path=str(folder / ASIDE),
                failure_config=ours.FailureConfig(max_failures=0, max_preemption_failures=0),  # tries are the runner's
            ),
        )


def _work(given: dict[str, Any]) -> dict[str, object] | None:
    """What each process does."""
    from ray.train import get_context

    rank, folder = get_context().get_world_rank(), Path(given.pop("folder"))
    team = Team(**given)
    if not torch.cuda.is_available():  # Ray goes by what GPUs it was told of
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    begin(team.root, team.cpus)
    board, job = taken(team.order, study(team.root), Path(team.root))
    note = Note(progress_file(Path(team.root), team.owner))

    def report(phase: str, done: int, total: int, value: float | None) -> None:
        if rank == 0:
            note(Message("progress", phase, done, total, value))

    own = folder if rank == 0 else folder / ASIDE / str(rank)
    own.mkdir(parents=True, exist_ok=True)
    told = train(board.place, board.store, job.node, own, report, processes=team.size)
    return {**told, "processes": team.size, "threads": torch.get_num_threads()} if rank == 0 else None


def _cause(error: Any) -> Exception:
    """The failure that the others followed from."""
    failures: list[Exception] = [failure for _, failure in sorted(getattr(error, "worker_failures", {}).items())]
    if ours := [failure for failure in failures if isinstance(failure, LimberError)]:
        return ours[0]
    rays = [failure for failure in failures or [error] if type(failure).__module__.startswith("ray.")]
    if rays:  # it found a process dead, or could not start it
        return Lost(f"a process of its training died: {reason_of(rays[0])}")
    return failures[0]
