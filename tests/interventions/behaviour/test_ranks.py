"""Two processes train with one gradient, which is that of one process that accumulates both batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interventions.behaviour.cases import CASES, PROBES, Case
from tests.interventions.behaviour.ranks import WORLD, setup
from tests.interventions.behaviour.runs import RUNS, distance, same_bits

ROOT = Path(__file__).parents[3]
ALL = [(kind, case) for kind, case in product(RUNS, CASES) if case.serves(kind) and "share" not in case.key]
"""A share is one of each process's own gradient."""
FAST = [
    (kind, case) for kind, case in ALL if kind == "sft" and (case in PROBES or case.key in ("diversity", "anchor-some"))
]
REST = [job for job in ALL if job not in FAST]


def launched(runs: Any, folder: Path, jobs: list[tuple[str, Case]]) -> Path:
    """Run them all in one pair of processes."""
    given = [
        str(runs.bases["llama"]),
        str(runs.place.earlier),
        str(folder),
        json.dumps([(kind, case.key) for kind, case in jobs]),
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.interventions.behaviour.ranks", *given],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."]), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def few(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched(runs, tmp_path_factory.mktemp("ranks"), FAST)


@pytest.fixture(scope="module")
def many(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched(runs, tmp_path_factory.mktemp("ranks"), REST)


def same_on_both_and_as_one(runs: Any, folder: Path, kind: str, case: Case) -> None:
    ranks = [torch.load(folder / f"{kind} {case.key}.{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert all(same_bits(one, other) for one, other in zip(*ranks, strict=True))
    one = runs(setup(kind, single=True), (case, case.weight))
    none = runs(setup(kind, single=True))
    assert len(ranks[0]) == len(one.gradients) == 2
    for found, wanted in zip(ranks[0], one.gradients, strict=True):
        if not kind.startswith("grpo"):  # where each process samples on its own
            assert distance(found, wanted) < 1e-4
    assert distance(one.gradients[1], none.gradients[1]) > 1e-3  # it acts


@pytest.mark.parametrize(("kind", "case"), FAST, ids=str)
def test_two_processes_have_the_gradient_of_one(runs: Any, few: Path, kind: str, case: Case) -> None:
    same_on_both_and_as_one(runs, few, kind, case)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "case"), REST, ids=str)
def test_in_every_trainer(runs: Any, many: Path, kind: str, case: Case) -> None:
    same_on_both_and_as_one(runs, many, kind, case)
