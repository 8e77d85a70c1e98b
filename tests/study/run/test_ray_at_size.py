"""A study of real size, all orderings, seeds and measurements of a recipe, ends on Ray at the bytes of local workers.

Its stages are short and its samples small: that changes nothing in who does what, and in which order.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from limberlm.study import Study
from limberlm.study.results.results import Results, TableName
from tests.study.run.kills import killing
from tests.study.run_folder import ENVIRONMENT, command, digests

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs limberlm[ray]"),
]
RECIPE = Path(__file__).parents[3] / "recipes" / "six_stages.yaml"
ON_RAY = ENVIRONMENT | {"RAY_worker_niceness": "0"}

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes the recipe with short stages, and with some settings replaced."""

    def written(**changes: Any) -> Path:
        settings = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        for stage in settings["stages"].values():
            stage["rows"] = 64
            stage["args"] |= {"max_steps": 6, "per_device_train_batch_size": 4}
        settings["outcomes"] = {"items": 4, "plasticity": {"tasks": 1, "steps": 3, "items": 4}}
        settings["measure"] = {"max_tokens": 2000}
        path = tmp_path_factory.mktemp("recipe") / "study.yaml"
        path.write_text(yaml.safe_dump(settings | changes, sort_keys=False))
        return path

    return written


@pytest.fixture(scope="module")
def local(write: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe run by two workers of this machine."""
    run = tmp_path_factory.mktemp("local") / "run"
    subprocess.run(command(write(), run, "--jobs", "2"), check=True, env=ENVIRONMENT)
    return run


def test_every_node_part_and_table_of_a_recipe_is_the_same(write: Write, local: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    subprocess.run(command(write(), run, "--engine", "ray", "--jobs", "2"), check=True, env=ON_RAY)
    assert digests(run) == digests(local)
    here, there = Results(local), Results(run)
    assert len(here.plan.nodes) == 43
    for name in get_args(TableName):
        assert len(here.table(name)) > 0
        assert there.table(name).to_parquet() == here.table(name).to_parquet()


def test_workers_that_are_killed_in_the_middle_of_stages_and_parts_change_nothing(
    write: Write, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ON_RAY.keys() - ENVIRONMENT.keys() | {"OMP_NUM_THREADS"}:
        monkeypatch.setenv(name, ON_RAY[name])
    orderings = [["sft", "math", "code", "cot", "safety", "dpo"], ["sft", "code", "safety", "math", "cot", "dpo"]]
    study = Study.load(write(orderings=orderings, seeds=[0]), tmp_path / "run")
    with (
        killing(study.out, "math-*.make", 2, "training") as training,
        killing(study.out, "dpo-*.measure", 1, "plasticity") as measuring,
    ):
        study.run("ray", jobs=2)
    assert (len(training), len(measuring)) == (2, 1)
    ended, whole = digests(study.out), digests(local)
    assert len([name for name in ended if "/" not in name]) == 12
    assert ended == {name: whole[name] for name in ended}
