"""`python -m tests.fuzz [TARGET...]`: changed files for every reader, which must take or refuse them.

A find is an exception that is no `LimberError`, a message of several lines, more than `--seconds` or `--memory`, or a
file written outside the reader's folder. Each execution follows from the target's name and its number alone, and
`--first N --executions 1` does one again.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from limberlm.errors import LimberError
from tests.conftest import make_tiny_model
from tests.fuzz.targets import NAMES, Target, emptied, targets
from tests.hostile.world import build


class Slow(BaseException):
    """An execution that took too long."""


def main() -> int:
    """Fuzz; the exit code is 1 where something was found."""
    asked = _arguments()
    warnings.simplefilter("ignore")
    found = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        root = Path(name)
        for part in ("world", "work", "place"):
            (root / part).mkdir()
        known = targets(build(root / "world", make_tiny_model(root / "tiny")), root / "work")
        assert set(known) == set(NAMES)
        os.chdir(root / "place")
        _limit_memory(asked.memory)
        for target in asked.targets or NAMES:
            found += _fuzz(target, known[target], root / "place", asked)
    return 1 if found else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(NAMES)}; all if left out")
    parser.add_argument("--minutes", type=float, help="of each target, in place of --executions")
    parser.add_argument("--executions", type=int, default=40, help="of each target")
    parser.add_argument("--first", type=int, default=0, help="the number of the first")
    parser.add_argument("--seconds", type=float, default=20.0, help="one execution may take")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB that all of them may add")
    return parser.parse_args()


def _limit_memory(gib: float) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _fuzz(name: str, target: Target, place: Path, asked: argparse.Namespace) -> int:
    began, number, taken, finds = time.monotonic(), asked.first, 0, set()
    target.whole(emptied(place / "in"))
    if _execute(target, place / "in", asked.seconds) != (None, True):
        finds.add("whole")
        print(f"{name}: refuses the example that it changes", flush=True)
    while time.monotonic() - began < asked.minutes * 60 if asked.minutes else number < asked.first + asked.executions:
        folder = emptied(place / "in")
        target.write(folder, Random(f"{name} {number}"))
        problem, is_taken = _execute(target, folder, asked.seconds)
        taken += is_taken
        if problem is None and (beside := sorted(os.listdir(place))) != ["in"]:
            problem = f"wrote {beside}"
        if problem is not None and problem not in finds:
            finds.add(problem)
            print(f"{name} {number}: {problem}", flush=True)
        number += 1
    spent = time.monotonic() - began
    done = number - asked.first
    print(f"{name}: {done} executions, {taken} taken, {done - taken} refused, {spent / 60:.1f} min, {len(finds)} finds")
    sys.stdout.flush()
    return len(finds)


def _execute(target: Target, folder: Path, seconds: float) -> tuple[str | None, bool]:
    """What is wrong with what happened, or None; and whether the files were taken."""
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        target.read(folder)
    except LimberError as error:
        return (None if "\n" not in str(error) else f"several lines: {error!r}"), False
    except Slow:
        return f"more than {seconds:g} s in {_where(sys.exc_info()[2])}", False
    except BaseException as error:
        return f"{type(error).__name__} ({str(error)[:90]!r}) in {_where(error.__traceback__)}", False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return None, True


def _stop(number: int, frame: object) -> None:
    raise Slow


def _where(trace: object) -> str:
    """The last line of ours in a traceback, and the last of all."""
    frames = traceback.extract_tb(trace)  # type: ignore[arg-type]
    ours = [frame for frame in frames if "/limberlm/" in frame.filename] or frames
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (ours[-1], frames[-1]))


if __name__ == "__main__":
    sys.exit(main())
