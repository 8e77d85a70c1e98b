from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.geometry.all_reduce import assert_same, every_sum


def test_all_reduce_sums_over_processes_about_the_first_ones_shift_also_where_it_has_no_rows(tmp_path: Path) -> None:
    command, path = [sys.executable, "-m", "tests.geometry.all_reduce"], os.pathsep.join(sys.path)
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], env={**os.environ, "PYTHONPATH": path})
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]


@pytest.mark.parametrize("kind", range(4), ids=[type(sums).__name__ for sums in every_sum(slice(0), 0.0)])
def test_without_distributed_all_reduce_does_nothing(kind: int) -> None:
    sums = every_sum(slice(None), 2.0)[kind]
    sums.all_reduce()
    assert_same(sums, every_sum(slice(None), 2.0)[kind])
