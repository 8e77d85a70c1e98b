"""A worker process: `python -m limberlm.study.run.worker RUN_DIR` does the jobs that come in on its standard input."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import IO

from limberlm.errors import UserError
from limberlm.study.plan.plan import Plan
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.crew import as_line
from limberlm.study.run.effort import Effort, Message
from limberlm.study.run.jobs import Board, Job
from limberlm.study.settings.config import load_settings
from limberlm.study.store.store import Store


def main(root: Path) -> None:
    """Do jobs until the input ends."""
    output = _own_output()
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    board = Board(Workplace(load_settings(root / "study.yaml")), Store(root), Plan.read(root / "plan.json"))
    effort = Effort(board)

    def tell(message: Message) -> None:
        output.write(as_line(message))
        output.flush()

    while True:
        asked = json.loads(jobs.get())
        try:
            if asked["inputs"] != board.inputs:
                raise UserError(f"{root}: the study's base, rows or probe changed while it ran; run it again")
            effort.make(Job(asked["kind"], board.plan.node(asked["node"])), tell)
        except (UserError, OSError) as error:  # OSError: a lease that cannot be written
            output.write(json.dumps({"user_error": str(error)}) + "\n")
            output.flush()


def _own_output() -> IO[str]:
    """Standard output for this protocol alone: whatever a library prints goes to standard error."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _listen(jobs: queue.Queue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    os._exit(0)  # whoever gave the jobs is gone; what is half made was in a scratch folder


if __name__ == "__main__":
    main(Path(sys.argv[1]))
