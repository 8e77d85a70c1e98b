"""`python -m tests.cli.launched FOLDER`: the command as a launcher starts it, in two processes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from rich.progress import Progress
from transformers.models.llama import modeling_llama  # noqa: F401  # before the forks, once

from limberlm.cli import main
from limberlm.observe import measurement  # noqa: F401
from tests.forks import forked

RUNS: dict[str, tuple[list[str], int | None]] = {
    "measured": (["measure", "good", "--probe", "texts.jsonl", "--json"], None),
    "damaged": (["measure", "good", "bad", "--probe", "texts.jsonl"], None),
    "missing": (["measure", "good", "--probe", "nowhere.jsonl"], None),
    "typed": (["measure", "good", "--layers", "two"], None),
    "unwritable": (["measure", "good", "--probe", "texts.jsonl"], None),
    "other": (["compare", "a.geometry", "b.geometry"], None),
    "lost": (["measure", "good", "--probe", "texts.jsonl"], 1),
    "lost first": (["measure", "good", "--probe", "texts.jsonl"], 0),
}
"""What is typed, and the process that is killed in the middle of its pass."""


def run(name: str, rank: int) -> int:
    """One process: what it prints goes to files."""
    words, struck = RUNS[name]
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{rank}.{kind}", os.O_CREAT | os.O_WRONLY), descriptor)
    if rank == struck:
        Progress.update = lambda *given, **more: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    where = ["--out", f"{name} out"] if words[0] == "measure" else []
    try:
        main([*words, *where])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("unwritable out").write_text("a file")
    codes = {name: forked(2, lambda rank, name=name: run(name, rank), patience=60) for name in RUNS}
    Path("codes.json").write_text(json.dumps(codes))
