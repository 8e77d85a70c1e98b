"""Runs each text of a JSON list in a process of its own, which has one second and 32 MiB more than it starts with.

Standard input: {"by": "evaluator" or "python", "texts": [...]}. Standard output: a JSON list of what became of each:
the outcome ("value", the name of the exception, or "died" with the signal), its message, the seconds of processor time
it took, and every event by which Python reached outside (an import, a file, a compilation, a process).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time

from limberlm.testbed.evaluator import EvaluationError, parse

SECONDS, BYTES = 1, 32 << 20
EVENTS: list[str] = []


def carry_out(by: str, text: str) -> None:
    if by == "python":
        eval(text, {"__builtins__": {}, "repeat": lambda items, times: [items] * times, "x": 3, "xs": [3]})
    else:
        parse(text).run([3])


def confined(by: str, text: str) -> dict[str, object]:
    """What became of one text, in a process that is already confined."""
    EVENTS.clear()
    start = time.process_time()
    try:
        carry_out(by, text)
        outcome, message = "value", ""
    except EvaluationError as error:
        outcome, message = "EvaluationError", str(error)
    except BaseException as error:
        outcome, message = type(error).__name__, str(error)
    events = EVENTS.copy()
    return {"outcome": outcome, "message": message, "seconds": time.process_time() - start, "events": events}


def forked(by: str, text: str) -> dict[str, object]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open("/proc/self/statm") as held:
            size = int(held.read().split()[0]) * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        sys.addaudithook(lambda event, args: EVENTS.append(event))
        os.write(writer, json.dumps(confined(by, text)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"outcome": "died", "message": signal.Signals(os.WTERMSIG(status)).name, "seconds": SECONDS}
    return json.loads(said)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    json.dump([forked(asked["by"], text) for text in asked["texts"]], sys.stdout)
