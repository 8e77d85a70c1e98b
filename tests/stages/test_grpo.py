"""RLVR: the reward is the verifier's, it can be learnt from, and the reference is the stage's start."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerFast

from limberlm.errors import NodeFailed
from limberlm.outcomes.encoding import encode_prompt
from limberlm.stages import StageRun
from limberlm.stages.grpo import GRPO
from limberlm.stages.settings.arguments import trainer_config
from limberlm.testbed import SKILLS
from tests.stages.runs import Displaced, run_stage


def completions(out: Path) -> pd.DataFrame:
    """What TRL wrote of every sampled completion, with the text of prompt and completion."""
    parts = sorted((out.parent / "scratch" / "completions").iterdir())
    table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    table["asked"] = [turns[0]["content"] for turns in table["prompt"]]
    table["said"] = [turns[0]["content"] for turns in table["completion"]]
    return table


def last_number(text: str) -> int | None:
    words = [word.strip(".,") for word in text.split()]
    numbers = [int(word) for word in words if re.fullmatch("-?[0-9]+", word)]
    return numbers[-1] if numbers else None


@dataclass(frozen=True)
class Sampled:
    """A short run with every completion written down."""

    run: StageRun
    table: pd.DataFrame
    progress: list[tuple[int, int, float]]


@pytest.fixture(scope="module")
def sampled(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    """After a supervised stage on four problems, and sampled cold: untrained, no answer would ever be right."""
    out = tmp_path_factory.mktemp("grpo") / "adapter"
    taught = out.parent / "sft"
    progress: list[tuple[int, int, float]] = []
    run_stage(tiny_model_folder, taught, data="testbed:arithmetic", rows=4, max_steps=30)
    run = run_stage(
        tiny_model_folder,
        out,
        "grpo",
        adapters=[taught],
        progress=lambda *what: progress.append(what),
        rows=4,
        max_steps=4,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=12,
        temperature=0.3,
        log_completions=True,
        beta=0.1,
        learning_rate=3e-3,
    )
    return Sampled(run, completions(out), progress)


def test_the_reward_is_the_verifiers_verdict_on_every_completion(sampled: Sampled) -> None:
    answers = {s.prompt: last_number(s.answer) for s in SKILLS["arithmetic"].samples("train", 4)}
    table = sampled.table
    by_hand = [float(last_number(said) == answers[asked]) for asked, said in zip(table.asked, table.said, strict=True)]
    assert table["verifier"].tolist() == by_hand
    assert 0 < sum(by_hand) < len(by_hand)
    means = table.groupby("step")["verifier"].mean()
    assert sampled.run.training["reward"].tolist() == pytest.approx(means.tolist(), abs=1e-6)


def test_progress_reports_the_reward(sampled: Sampled) -> None:
    assert sampled.progress == [
        (step, 4, reward) for step, reward in enumerate(sampled.run.training["reward"], start=1)
    ]


def test_every_prompt_is_answered_num_generations_times_and_the_advantage_is_the_groups(sampled: Sampled) -> None:
    for _, group in sampled.table.groupby(["step", "asked"]):
        assert len(group) == 8
        spread = group["verifier"].std()
        wanted = (group["verifier"] - group["verifier"].mean()) / (spread + 1e-4)
        assert group["advantage"].tolist() == pytest.approx(wanted.tolist(), abs=1e-4)


def test_tokens_are_those_of_prompts_and_completions(sampled: Sampled, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    table, training = sampled.table, sampled.run.training
    prompts = table["prompt"].map(lambda turns: len(encode_prompt(tiny_tokenizer, [dict(turns[0])])))
    read = prompts.groupby(table["step"]).sum() + 32 * training.set_index("step")["completions/mean_length"]
    assert training["num_tokens"].dtype == "int64"
    assert training["num_tokens"].tolist() == pytest.approx(read.cumsum().tolist(), abs=0.01)


def test_the_divergence_starts_at_0_and_then_grows(sampled: Sampled) -> None:
    kl = sampled.run.training["kl"]
    assert kl.iloc[0] == 0.0
    assert kl.iloc[-1] > 1e-5


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, {}),  # TRL's beta is 0: there is no reference
        ({"beta": 0.04}, {"kl": 0.0}),
        ({"beta": 0.04, "disable_dropout": False}, {}),
    ],
)
def test_the_divergence_is_known_where_there_is_a_reference_and_no_dropout(
    args: dict[str, Any], expected: dict[str, float]
) -> None:
    assert GRPO.first_step(trainer_config(GRPO, args, where="x", seed=0, scratch=Path("scratch"))) == expected


def test_a_policy_that_is_not_its_reference_stops_the_stage(tiny_model_folder: Path, tmp_path: Path) -> None:
    kind = Displaced(**vars(GRPO))
    with pytest.raises(NodeFailed, match=r"the first step's kl is \d+\.\d+ where an untouched policy gives 0\.000000"):
        run_stage(tiny_model_folder, tmp_path / "adapter", "grpo", kind=kind, beta=0.1)
    assert not (tmp_path / "adapter").exists()


@pytest.fixture
def seven(tmp_path: Path) -> dict[str, Any]:
    """A stage whose every right answer is 7, which an untrained model says now and then."""
    rows = [{"prompt": f"word {i}\n", "answer": 7} for i in range(40)]
    (tmp_path / "seven.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batch = {"per_device_train_batch_size": 32, "num_generations": 16, "max_completion_length": 8, "temperature": 0.5}
    return {"data": str(tmp_path / "seven.jsonl"), "lr_scheduler_type": "constant", **batch}


def test_a_reward_that_can_be_learnt_is_learnt(tiny_model_folder: Path, tmp_path: Path, seven: dict[str, Any]) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "grpo", max_steps=12, learning_rate=2e-2, **seven)
    reward = run.training["reward"]
    assert reward.iloc[:3].mean() < 0.2
    assert reward.iloc[-3:].mean() > 0.4


def test_steps_that_sample_nothing_keep_the_count_of_tokens(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "grpo", max_steps=4, steps_per_generation=2)
    tokens = run.training["num_tokens"].tolist()
    assert tokens[0] == tokens[1] < tokens[2] == tokens[3]


def test_a_step_whose_completions_are_all_masked_is_no_error(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_stage(
        tiny_model_folder, tmp_path / "adapter", "grpo", mask_truncated_completions=True, max_completion_length=2
    )
    assert run.training["loss"].tolist() == [0.0, 0.0]
    assert run.training["clip_ratio/low_min"].isna().all()


def test_a_policy_that_has_blown_up_stops_the_stage(
    tiny_model_folder: Path, tmp_path: Path, seven: dict[str, Any]
) -> None:
    with pytest.raises(NodeFailed, match=r"after step \d no completion can be sampled.*: lower the learning rate"):
        run_stage(tiny_model_folder, tmp_path / "adapter", "grpo", learning_rate=1e30, max_steps=5, **seven)
    assert not (tmp_path / "adapter").exists()
