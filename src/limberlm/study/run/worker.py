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
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.effort import Message, carry_out
from limberlm.study.settings.config import load_settings
from limberlm.study.store.lease import LEASES, Leases


def main(root: Path) -> None:
    """Do jobs until the input ends."""
    output = _own_output()
    jobs: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    place, leases = Workplace(load_settings(root / "study.yaml")), Leases(root / LEASES)

    def tell(message: Message) -> None:
        output.write(message.as_line())
        output.flush()

    while True:
        try:
            carry_out(jobs.get(), place, leases, root, tell)
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
