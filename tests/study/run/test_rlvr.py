"""A study with a reinforcement stage: what it needs is asked for, and what it leaves is all there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from limberlm.errors import UserError
from limberlm.observe import load_model
from limberlm.outcomes.win_rate import win_rate
from limberlm.stages import merge_adapters
from limberlm.study import Study
from limberlm.study.plan.workplace import Workplace
from limberlm.study.run.runner import Event
from limberlm.study.settings.config import study_settings

RLVR = {"trainer": "grpo", "data": "testbed:arithmetic", "reward": "verifier"}
SFT = {"trainer": "sft", "data": "testbed:arithmetic"}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**RLVR, "reward": None}, "stages.s: trainer: grpo has no reward: add `reward: verifier`"),
        ({**SFT, "reward": "verifier"}, "stages.s: reward: verifier and trainer: sft, which takes none: remove"),
        ({**SFT, "trainer": "dpo", "reward": "verifier"}, "stages.s: reward: verifier and trainer: dpo, which takes"),
        (
            {**RLVR, "reward": "length"},
            "stages.s: reward: length is neither `verifier` nor written package.module:function",
        ),
        ({**RLVR, "checkpoints": -1}, "stages.s.checkpoints: "),
    ],
)
def test_a_reward_and_its_trainer_belong_together(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        study_settings({"name": "x", "stages": {"s": stage}}, "study.yaml")
    assert str(caught.value).startswith(f"study.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_groups_that_do_not_fill_the_batch_are_refused_before_anything_is_trained(
    make_study: Callable[..., Path],
) -> None:
    args = {"per_device_train_batch_size": 12, "num_generations": 8}
    with pytest.raises(UserError) as caught:
        Study.load(make_study(stages={"r": RLVR | {"args": args}})).plan()
    assert "generation_batch_size (12) must be divisible by num_generations (8)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_reward_names_the_node_and_checkpoints_do_not(make_study: Callable[..., Path]) -> None:
    def node(stage: dict[str, Any]) -> str:
        return Study.load(make_study(stages={"s": stage | {"rows": 16}})).plan().nodes[1].id

    assert node(SFT) == node(SFT | {"checkpoints": 5})
    assert node(RLVR) == node(RLVR | {"checkpoints": 5}) != node(SFT)


def test_what_a_rewarded_stage_costs_is_known_before_it_is_trained(make_study: Callable[..., Path]) -> None:
    args = {"max_steps": 3, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
    place = Workplace(Study.load(make_study(stages={"rlvr": RLVR | {"rows": 16, "args": args}})).settings)
    cost = place.cost(place.plan().nodes[1])
    assert (cost.steps, cost.rows) == (3, 12)
    assert 12 * 8 < cost.tokens < 12 * (8 + 64)  # the longest completions, and some of a prompt


@pytest.fixture(scope="module")
def rlvr(tmp_path_factory: pytest.TempPathFactory, study_settings: dict[str, Any]) -> tuple[Study, list[Event]]:
    """Supervised, then reinforced, with every completion kept."""
    folder = tmp_path_factory.mktemp("rlvr")
    small = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    sampling = {"num_generations": 4, "max_completion_length": 8, "log_completions": True, "beta": 0.1}
    settings = study_settings | {
        "name": "rlvr",
        "stages": {"sft": SFT | {"rows": 16, "args": small}, "rlvr": RLVR | {"rows": 16, "args": small | sampling}},
    }
    (folder / "rlvr.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    study, events = Study.load(folder / "rlvr.yaml", folder / "run"), []
    study.run(watch=events.append)
    return study, events


def test_the_reinforced_node_holds_its_rewards_and_completions(rlvr: tuple[Study, list[Event]]) -> None:
    study, _ = rlvr
    node = study.out / "nodes" / study.plan().chains[0].nodes[2]
    training, completions = (pd.read_parquet(node / f"{name}.parquet") for name in ("training", "completions"))
    assert {"reward", "kl", "num_tokens", "rewards/verifier/mean"} <= set(training)
    assert training["kl"][0] == 0.0
    assert training["reward"].tolist() == completions.groupby("step")["verifier"].mean().tolist()
    assert completions["step"].tolist() == [1] * 4 + [2] * 4
    assert not (node / "trainer").exists()
    assert json.loads((node / "node.json").read_text())["task"] == "arithmetic"


def test_progress_speaks_of_the_reward(rlvr: tuple[Study, list[Event]]) -> None:
    said = {(event.node.stage, event.headline) for event in rlvr[1] if event.value is not None}
    assert said == {("sft", "loss"), ("rlvr", "reward")}


def test_both_stages_have_their_loss_in_and_out_of_domain(rlvr: tuple[Study, list[Event]]) -> None:
    outcomes = rlvr[0].table("outcomes")
    for stage in ("base", "sft", "rlvr"):
        rows = outcomes[(outcomes["stage"] == stage) & (outcomes["task"] == "arithmetic")]
        found = set(zip(rows["outcome"], rows["split"], strict=True))
        splits = ("in_domain", "out_of_domain")
        assert {(name, split) for name in ("accuracy", "loss") for split in splits} <= found


def test_win_rates_are_those_of_the_checkpoints_against_the_base(rlvr: tuple[Study, list[Event]]) -> None:
    study, _ = rlvr
    outcomes = study.table("outcomes")
    rows = outcomes[outcomes["outcome"] == "win_rate"]
    assert set(zip(rows["stage"], rows["settings"], strict=True)) == {
        (stage, json.dumps({"judge": judge})) for stage in ("sft", "rlvr") for judge in ("verifier", "likelihood")
    }
    base = load_model(study.settings.base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(study.settings.base)
    adapters = [study.out / "nodes" / node / "adapter" for node in study.plan().chains[0].nodes[1:]]
    tuned = merge_adapters(load_model(study.settings.base, dtype=torch.float32), adapters)
    for judge in ("verifier", "likelihood"):
        [wanted] = win_rate(tuned, base, tokenizer, ["arithmetic"], 4, judge=judge)
        row = rows[(rows["stage"] == "rlvr") & (rows["settings"] == json.dumps({"judge": judge}))]
        for column in ("value", "low", "high", "std_error"):
            assert row[column].item() == pytest.approx(wanted[column])


def test_out_of_domain_may_be_left_out(make_study: Callable[..., Path], study_settings: dict[str, Any]) -> None:
    stages = {"sft": study_settings["stages"]["sft"]}
    study = Study.load(make_study(stages=stages, outcomes={"items": 4, "plasticity": None, "ood": False}))
    outcomes = study.run().table("outcomes")
    assert set(outcomes["split"]) == {"in_domain"}
    assert "win_rate" not in set(outcomes["outcome"])
