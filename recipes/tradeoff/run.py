"""All runs: each arm's settings are searched on one seed, then trained on others; what is done is not repeated."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from recipes.tradeoff.arms import ARMS, Arm, Setting
from recipes.tradeoff.bench import GOALS, LEVELS, LONGEST, STEPS, Bench
from recipes.tradeoff.chained import Chained

SEARCHED, SEEDS = 100, (0, 1, 2)
SLOWEST, FASTEST = 1.25e-4, 1.6e-2


class Runs:
    """The records of one arm, in `ARM.jsonl`; each line is written once its run has ended."""

    def __init__(self, arm: str, out: Path) -> None:
        self.arm, self.path = arm, out / f"{arm}.jsonl"
        self.records = list(read(self.path))

    def score(self, bench: Bench, setting: Setting) -> tuple[float, float]:
        """What is forgotten at the last level, in nats, infinite where it is not reached; then the loss in the end."""
        record = self.run(bench, setting, SEARCHED, LEVELS[-1:])
        found = record["levels"].get(str(LEVELS[-1]))
        return float(found[bench.judged]) if found else math.inf, record["losses"][-1][1]

    def run(self, bench: Bench, setting: Setting, seed: int, levels: tuple[float, ...]) -> dict[str, Any]:
        """A run's record, trained now if there is none yet."""
        from recipes.tradeoff.train import trained

        key = {"task": bench.task, "seed": seed, "rate": setting.rate, "strength": setting.strength}
        for record in self.records:
            if key.items() <= record.items():
                return record
        steps = STEPS if seed == SEARCHED else LONGEST
        record = trained(bench, self.arm, setting, seed, levels, steps)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)
        print(told(record), flush=True)
        return record


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a file, if there is one; a line that was being written when the run was killed is left out."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def chosen(runs: Runs, arm: Arm, bench: Bench) -> Setting:
    """The best setting on the search's seed: the rate, a factor of 2 apart, then the strength, then the rate again."""
    best = Setting(arm.rate, arm.strengths[len(arm.strengths) // 2] if arm.strengths else 0.0)
    best = climbed(runs, bench, _rates(best), best)
    if arm.strengths:
        best = climbed(runs, bench, [Setting(best.rate, strength) for strength in arm.strengths], best)
        best = climbed(runs, bench, _rates(best), best)
    return best


def _rates(start: Setting) -> list[Setting]:
    rates = [start.rate * 2.0**k for k in range(-8, 9)]
    return [Setting(rate, start.strength) for rate in rates if SLOWEST <= rate <= FASTEST]


def climbed(runs: Runs, bench: Bench, ladder: Sequence[Setting], start: Setting) -> Setting:
    """The first setting on a ladder, from one on it, whose neighbours are both worse."""
    at = ladder.index(start)
    while True:
        near = [place for place in (at, at + 1, at - 1) if 0 <= place < len(ladder)]
        best = min(near, key=lambda place: runs.score(bench, ladder[place]))
        if best == at:
            return ladder[at]
        at = best


def perform(arm: str, out: Path, after: bool) -> str:
    """All runs of one arm."""
    torch.set_num_threads(1)
    runs, searched = Runs(arm, out), ARMS[arm].like or arm
    settings = []
    for bench in (_bench(task, out / "shared", after) for task in GOALS):
        setting = chosen(runs if searched == arm else Runs(searched, out), ARMS[searched], bench)
        settings.append(f"{bench.task} at {setting.rate:g} x {setting.strength:g}")
        for seed in SEEDS:
            runs.run(bench, setting, seed, LEVELS)
    return f"{arm}: {', '.join(settings)}"


@cache
def _bench(task: str, shared: Path, after: bool) -> Bench:
    """One for each task of a process: it holds statistics that arms share."""
    return Chained(task, shared) if after else Bench(task, shared)


def everything(arms: Sequence[str], out: Path, jobs: int, after: bool) -> None:
    """All runs of some arms, in so many processes; arms that take over another's rate come after it."""
    for task in GOALS:
        _bench(task, out / "shared", after).write()
    waves = [arm for arm in arms if not ARMS[arm].like], [arm for arm in arms if ARMS[arm].like]
    with get_context("spawn").Pool(jobs) as pool:
        for wave in waves:
            for line in pool.imap_unordered(_performed, [(arm, out, after) for arm in wave]):
                print(line, flush=True)


def _performed(given: tuple[str, Path, bool]) -> str:
    return perform(*given)


def told(record: dict[str, Any]) -> str:
    """One run in a line."""
    passed = "  ".join(f"{level}: {rise['mix']:+.3f}" for level, rise in record["levels"].items())
    seconds = sum(record["seconds"].values())
    where = f"{record['arm']} {record['task']} seed {record['seed']} rate {record['rate']:g} x {record['strength']:g}"
    return f"{where}  {passed or 'not reached'}  ({seconds:.0f} s)"
