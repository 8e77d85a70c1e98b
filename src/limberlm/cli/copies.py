"""A command that torchrun or accelerate launch starts several times at once: process 0 speaks for all."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from limberlm.errors import UserError

SHARING = "measure"
"""The command whose processes share the work."""


def copies() -> int:
    """How many processes of this command there are."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def speaks() -> bool:
    """Whether this process prints, and its exit code is that of the command."""
    return copies() == 1 or os.environ["RANK"] == "0"


def silence(debug: bool) -> None:
    """Print nothing from here on, tracebacks apart where they are asked for."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as we live
    sys.stdout, sys.stderr = nowhere, sys.stderr if debug else nowhere


def refuse_copies(given: Sequence[str]) -> None:
    """Refuse a command whose processes would all do the same work, and write to the same place.

    Raises:
        UserError: it has been started several times.
    """
    command = next((word for word in given if not word.startswith("-")), SHARING)
    if copies() > 1 and command != SHARING:
        raise UserError(
            f"{command}: started {copies()} times at once (WORLD_SIZE={copies()}), each of which would do the same "
            f"work; start it without torchrun or accelerate launch: only {SHARING} shares its work"
        )


def is_first_to_tell() -> bool:
    """Whether no other process has told yet that the command ends before its time.

    Where the launcher's store is gone, process 0 kept it and is gone too: then process 1 tells.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    run = "/".join(os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT"))
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=3))
        return bool(store.add(f"limberlm/{run}/told", 1) == 1)
    except (KeyError, ValueError, RuntimeError):
        return os.environ["RANK"] == "1"
