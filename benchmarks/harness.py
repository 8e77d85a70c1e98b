"""Figures, and the two ways to get one: timing in turns, and the peak memory of a fresh process."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Literal

import torch

ROOT = Path(__file__).resolve().parents[1]

Goal = tuple[Literal["<=", ">="], float]


@dataclass(frozen=True)
class Figure:
    """One measured number: what it is, the bound it should keep, and its extremes over the rounds, if timed."""

    name: str
    what: str
    value: float
    goal: Goal | None = None
    unit: Literal["ratio", "bytes per token", "per second", "seconds", "MB"] = "ratio"
    low: float | None = None
    high: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the value keeps the bound; None where there is none."""
        if self.goal is None:
            return None
        sign, bound = self.goal
        return self.value <= bound if sign == "<=" else self.value >= bound

    def record(self, machine: str) -> dict[str, Any]:
        """The figure as it is printed and kept."""
        return {
            "name": self.name,
            "what": self.what,
            "value": round(self.value, 3),
            "unit": self.unit,
            "low": None if self.low is None else round(self.low, 3),
            "high": None if self.high is None else round(self.high, 3),
            "goal": None if self.goal is None else f"{self.goal[0]} {self.goal[1]:g}",
            "met": self.met,
            "machine": machine,
        }


def in_turns(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each case, round by round, run A B C A B C ... on one thread.

    CPU time of this process is what other jobs on the machine change least, and a slow spell falls on all cases.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    try:
        for _ in range(rounds):
            for name, case in cases.items():
                wall_start, cpu_start = perf_counter(), process_time()
                case()
                cpu[name].append(process_time() - cpu_start)
                wall[name].append(perf_counter() - wall_start)
    finally:
        torch.set_num_threads(threads)
    for name in cases:
        note(f"    {name}: {median(cpu[name]):.3f} s CPU, {median(wall[name]):.3f} s wall")
    return cpu


def compared(name: str, what: str, above: list[float], below: list[float], goal: Goal | None = None) -> Figure:
    """The figure median(above) / median(below); its extremes are those of the ratio within a round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Figure(name, what, median(above) / median(below), goal, low=min(ratios), high=max(ratios))


def rated(name: str, what: str, count: int, seconds: list[float], goal: Goal | None = None) -> Figure:
    """The figure of so many things a second, in the median round."""
    rates = [count / each for each in seconds]
    return Figure(name, what, median(rates), goal, "per second", min(rates), max(rates))


def in_fresh_process(module: str, *arguments: object) -> Any:
    """What `python -m module ARGUMENTS` prints on its last line, as JSON."""
    # glibc gives freed memory back at once under these, so that resident memory is memory in use
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """The most resident memory this process has had so far, in bytes."""
    # on Linux ru_maxrss starts from the peak of the process that started this one
    with suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> str:
    """Processor, cores, system and the versions that matter for speed."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), model)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, {versions}"


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
