"""What goes wrong inside a run: one line each, exit code 1 for a failed node and 3 for what the user can mend."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from limberlm.errors import NodeFailed, UserError
from limberlm.study import Results, Study
from limberlm.study.node import node
from limberlm.study.store.store import Store
from tests.cli import conftest

limber = conftest.limber

REWARDS = """
def right(completions, **columns):
    return [1.0 for _ in completions]

def breaks(completions, **columns):
    raise KeyError("score")

def nothing(completions, **columns):
    return [float("nan") for _ in completions]

def short(completions, **columns):
    return [1.0]
"""


def rlvr(study_settings: dict[str, Any], reward: str) -> dict[str, Any]:
    args = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4}
    stage = {"trainer": "grpo", "data": "testbed:arithmetic", "rows": 16, "reward": reward, "args": args}
    return study_settings | {"stages": {"rlvr": stage}, "outcomes": {"items": 4, "plasticity": False, "ood": False}}


@pytest.mark.parametrize(
    ("function", "message"),
    [("breaks", "KeyError"), ("nothing", "nan"), ("short", "1")],
)
def test_a_reward_that_breaks_fails_its_node_and_is_named(
    make_study: Callable[..., Path], study_settings: dict[str, Any], tmp_path: Path, function: str, message: str
) -> None:
    (tmp_path / f"rewards_{function}.py").write_text(REWARDS)
    settings = rlvr(study_settings, f"rewards_{function}:{function}")
    study = Study.load(make_study(**settings), tmp_path / "run")
    with pytest.raises(NodeFailed) as caught:
        study.run()
    assert f"rewards_{function}:{function}" in str(caught.value)
    assert message in str(caught.value)


def test_a_reward_of_the_users_trains_and_its_code_is_part_of_the_node(
    make_study: Callable[..., Path], study_settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "rewards_good.py").write_text(REWARDS)
    study = Study.load(make_study(**rlvr(study_settings, "rewards_good:right")), tmp_path / "run")
    rewards = study.run().table("training")["reward"]
    assert rewards.tolist() == [1.0]
    (tmp_path / "rewards_good.py").write_text(REWARDS + "# another\n")
    assert study.plan().nodes[1].id not in {path.name for path in Store(study.out).nodes.iterdir()}


def test_a_reward_that_is_not_there_is_told_before_anything_is_trained(
    make_study: Callable[..., Path], study_settings: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="no module called no_such_rewards"):
        Study.load(make_study(**rlvr(study_settings, "no_such_rewards:score"))).plan()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_want_of_memory_fails_the_node_and_says_what_helps(
    finished: Study,
    make_study: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(node, "train_stage", full)
    with pytest.raises(NodeFailed, match=r"sft-\w+: out of memory: a smaller per_device_train_batch_size"):
        Study.load(make_study(), tmp_path / "run").run()


def test_an_error_of_many_lines_is_told_in_one_and_kept_whole(
    make_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("one thing\nand another")

    monkeypatch.setattr(node, "train_stage", breaks)
    with pytest.raises(NodeFailed) as caught:
        Study.load(make_study(), tmp_path / "run").run()
    assert re.fullmatch(r"sft-\w+: RuntimeError: one thing; all that .* --retry", str(caught.value))
    (record,) = (tmp_path / "run" / "nodes").glob("sft-*.failed.json")
    assert "and another\nTraceback" in json.loads(record.read_text())["error"]


def test_a_failed_study_ends_the_command_with_one_line_and_exit_code_1(
    limber: conftest.Limber, make_study: Callable[..., Path], study_settings: dict[str, Any], tmp_path: Path
) -> None:
    stages = study_settings["stages"]
    args = stages["sft"]["args"] | {"learning_rate": 1e30}
    study = make_study(stages=stages | {"sft": stages["sft"] | {"args": args}})
    done = limber("run", study, "--out", tmp_path / "run", "--json")
    assert done.code == 1
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("limber: sft-")
    assert "the loss is nan at step 2" in last
    assert done.json["chains"][0]["stages"][0]["stage"] == "base", "what is there is reported"
    status = limber("status", tmp_path / "run", "--json")
    states = {entry["node"].partition("-")[0]: entry["state"] for entry in status.json["nodes"]}
    assert states == {"base": "done", "sft": "failed", "dpo": "to do"}


def test_a_plan_of_another_version_is_refused_in_one_line(finished: Study, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text((finished.out / "study.yaml").read_text())
    plan = json.loads((finished.out / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"colour": "blue"}))
    with pytest.raises(UserError, match=r"plan\.json: written by another version, or damaged"):
        Results(tmp_path)


def test_a_damaged_record_is_named(finished: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.writing("n"):
        pass
    (store.node("n") / "COMPLETE").write_text("{")
    with pytest.raises(UserError, match=r"COMPLETE: not a readable record; delete n and run again"):
        store.digests("n")
