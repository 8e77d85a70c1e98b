"""What a Ray worker does: one job, and how far it is in a file of the run directory."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

LOGS = "logs"
BETWEEN = 1.0  # seconds between two notes of how far a job is


def perform(
    order: str, root: str, mark: str, owner: str, threads: int, team: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Do a job, and return how it ended: a `Message`'s fields, or a `user_error`.

    Args:
        order: the job, as `Board.order` wrote it.
        root: the run directory.
        mark: a file in it that is there if this machine sees the folder that the runner sees; with a store it need not.
        owner: whom the job's lease names.
        threads: of arithmetic, unless `OMP_NUM_THREADS` says otherwise.
        team: the `size`, `cpus` and `custom` of the processes that train the stage together, if several do.

    """
    from limberlm.errors import UserError
    from limberlm.study.run.effort import carry_out
    from limberlm.study.store.lease import LEASES, Leases

    store, note = json.loads(order)["store"], Note(progress_file(Path(root), owner))
    try:
        with _shared(root, mark) if store is None else _brought(root, store) as place:
            begin(root, threads)
            leases = Leases(Path(root) / LEASES, owner=owner)
            training = _training(order, root, owner, team)
            carry_out(order, place, leases, Path(root), note, training)
            if store is not None and note.last.kind == "elsewhere":  # left by a task before this machine's last start?
                time.sleep(leases.stale + leases.beat)
                carry_out(order, place, leases, Path(root), note, training)
    except (UserError, OSError) as error:  # OSError: a lease that cannot be written
        return {"user_error": str(error)}
    finally:
        with suppress(OSError):
            note.path.unlink()
    return asdict(note.last)


def begin(root: str, threads: int) -> None:
    """Make this process ready to work in a run directory; arguments as for `perform`."""
    _log(root)
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))


def _training(order: str, root: str, owner: str, team: dict[str, Any] | None) -> Any:
    if team is None:
        return None
    from limberlm.study.run.ray_train import Team

    return Team(order, root, owner, **team).train


def progress_file(root: Path, owner: str) -> Path:
    """Where a job tells how far it is."""
    return root / LOGS / f"{owner}.progress"


class Note:
    """Hears a job's messages: keeps the last one, and writes down now and then how far it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._phase, self._since = "", 0.0

    def __call__(self, message: Any) -> None:
        """Hear one."""
        self.last = message
        now = time.monotonic()
        if message.kind == "progress" and (message.phase != self._phase or now - self._since >= BETWEEN):
            self._phase, self._since = message.phase, now
            draft = self.path.with_suffix(".tmp")
            draft.write_text(message.as_line(), encoding="utf-8")
            os.replace(draft, self.path)


@cache
def study(root: str) -> Any:
    """The study; Ray gives every run processes of its own, so it stays the same one."""
    from limberlm.study.plan.workplace import Workplace
    from limberlm.study.settings.config import load_settings

    return Workplace(load_settings(Path(root) / "study.yaml"))


@contextmanager
def _shared(root: str, mark: str) -> Iterator[Any]:
    """The study of a run directory that every machine sees."""
    from limberlm.errors import UserError

    if not Path(mark).is_file():
        raise UserError(
            f"{root}: the machine {platform.node()} of the Ray cluster does not see it; put --out on storage that "
            "every machine has under the same path, or give --store"
        )
    yield study(root)


@contextmanager
def _brought(root: str, store: str) -> Iterator[Any]:
    """The study from its store, and a run directory of this machine's own for it."""
    from limberlm.study.store.run_folder import open_run

    place, plan = _stored(store)
    with open_run(Path(root), place.settings, plan):
        (Path(root) / LOGS).mkdir(exist_ok=True)
        yield place


@cache
def _stored(store: str) -> tuple[Any, str]:
    from limberlm.study.plan.workplace import Workplace
    from limberlm.study.store.remote import Remote

    settings, plan = Remote(store).study()
    return Workplace(settings), plan


@cache
def _log(root: str) -> None:
    """Whatever this process prints from now on lies in the run directory."""
    path = Path(root) / LOGS / f"ray-{platform.node()}-{os.getpid()}.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
