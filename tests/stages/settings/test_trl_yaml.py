"""A TRL configuration file is a stage: read as TRL reads it, and what a study decides is left out with its reason."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import TrlParser
from trl.scripts.grpo import GRPOScriptArguments
from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments
from trl.trainer.model_config import ModelConfig

from limberlm.errors import UserError
from limberlm.stages import TRAINERS, AdapterSettings, load_stage_data
from limberlm.stages.reward import check_reward, reward_function
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.settings.decided import AGAINST, OWNED
from limberlm.stages.settings.trl_yaml import TrlStage, read_trl_yaml
from tests.stages.runs import run_stage

EACH = pytest.mark.parametrize("trainer", TRAINERS)

# what the TRL documentation shows for `trl sft --config`, with everything that people add to it
WHOLE = """
model_name_or_path: Qwen/Qwen2.5-0.5B
model_revision: main
dtype: bfloat16
attn_implementation: flash_attention_2
dataset_name: stanfordnlp/imdb
dataset_config: plain_text
dataset_train_split: train
dataset_test_split: test
report_to: none
learning_rate: 1e-4
lr_scheduler_type: cosine
warmup_steps: 0.1
num_train_epochs: 2
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
max_steps: 3
eval_strategy: steps
eval_steps: 50
logging_steps: 5
save_strategy: "no"
save_total_limit: 1
output_dir: sft-model
seed: 3
push_to_hub: true
hub_model_id: me/mine
load_best_model_at_end: true
metric_for_best_model: eval_loss
trust_remote_code: false
use_peft: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.0
lora_target_modules: all-linear
accelerate_config: zero3
num_processes: 4
mixed_precision: bf16
env:
  LIMBER_TEST_VARIABLE: "1"
"""


def read(folder: Path, content: Any, trainer: str = "sft") -> TrlStage:
    path = folder / "stage.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return read_trl_yaml(path, TRAINERS[trainer])


def trls(folder: Path, trainer: str) -> tuple[Any, ...]:
    """What TRL's own parser makes of the file: script, trainer, model and mixture."""
    script = GRPOScriptArguments if trainer == "grpo" else ScriptArguments
    parser = TrlParser((script, TRAINERS[trainer].config_class(), ModelConfig, DatasetMixtureConfig))
    given = ["--config", str(folder / "stage.yaml")]
    *parsed, _ = parser.parse_args_and_config(given, return_remaining_strings=True)
    return tuple(parsed)


def test_a_whole_file_becomes_a_stage_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    stage = read(tmp_path, WHOLE)
    assert stage.args == {
        "report_to": "none",
        "learning_rate": "1e-4",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
    }
    assert (stage.data, stage.split, stage.subset) == ("stanfordnlp/imdb", "train", "plain_text")
    assert stage.adapter == {"r": 32, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
    assert AdapterSettings(**stage.adapter).lora().r == 32
    assert (stage.full, stage.reward) == (False, None)
    written = set(yaml.safe_load(WHOLE))
    taken = set(stage.args) | {name for name in written if name.startswith(("lora_", "use_peft"))}
    left = {"dataset_name", "dataset_config", "dataset_train_split", "trust_remote_code"}
    assert set(stage.ignored) == written - taken - left
    assert all(reason and "\n" not in reason for reason in stage.ignored.values())


def test_the_settings_are_those_that_trls_own_parser_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBER_TEST_VARIABLE", raising=False)
    content = WHOLE.replace("push_to_hub: true", "use_cpu: true\nbf16: false").replace("eval_strategy: steps\n", "")
    stage = read(tmp_path, content.replace("load_best_model_at_end: true\n", ""))
    ours = trainer_config(TRAINERS["sft"], stage.args, where="x", seed=0, scratch=tmp_path)
    assert "LIMBER_TEST_VARIABLE" not in os.environ  # ours sets no variable, TRL's does
    script, theirs, model, _ = trls(tmp_path, "sft")
    assert os.environ.pop("LIMBER_TEST_VARIABLE") == "1"
    assert {name: getattr(ours, name) for name in stage.args} == {name: getattr(theirs, name) for name in stage.args}
    assert (stage.data, stage.subset, stage.split) == (
        script.dataset_name,
        script.dataset_config,
        script.dataset_train_split,
    )
    assert stage.adapter == {
        "r": model.lora_r,
        "lora_alpha": model.lora_alpha,
        "lora_dropout": model.lora_dropout,
        "target_modules": model.lora_target_modules,
    }


@EACH
def test_an_empty_file_is_trls_defaults(tmp_path: Path, trainer: str) -> None:
    assert read(tmp_path, {}, trainer) == TrlStage({}, None, None, None, None, True)
    read(tmp_path, {"use_cpu": True, "bf16": False}, trainer)  # TRL's own defaults want a GPU
    *_, model, mixture = trls(tmp_path, trainer)
    assert (model.use_peft, mixture.datasets) == (False, [])


@EACH
def test_every_setting_that_a_study_decides_is_left_out_with_its_reason(tmp_path: Path, trainer: str) -> None:
    decided: dict[str, Any] = {name: 1 for name in OWNED}
    mild = {name: True for name, against in AGAINST.items() if against.mild} | {"eval_strategy": "steps"}
    stage = read(tmp_path, {**decided, **mild}, trainer)
    assert stage.args == {}
    assert stage.ignored == OWNED | {name: AGAINST[name].reason for name in mild}


def test_settings_that_ask_for_nothing_are_left_out_without_a_word(tmp_path: Path) -> None:
    stage = read(tmp_path, "eval_strategy: no\npush_to_hub: false\ndeepspeed: null\nload_in_4bit: false\n")
    assert (stage.args, stage.ignored) == ({}, {})


@pytest.mark.parametrize(
    ("written", "adapter"),
    [
        ({"use_peft": True}, {}),
        ({"use_peft": True, "lora_target_modules": "all-linear"}, {"target_modules": "all-linear"}),
        ({"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]}, {"target_modules": ["q_proj", "v_proj"]}),
        ({"use_peft": True, "lora_target_modules": ["q_proj"]}, {"target_modules": ["q_proj"]}),
        ({"use_peft": True, "lora_target_modules": r".*\.q_proj"}, {"target_modules": r".*\.q_proj"}),
        ({"use_peft": True, "use_dora": False, "lora_r": "8"}, {"r": 8}),
        ({"use_peft": False, "lora_r": 8}, None),
        ({"lora_r": 8}, None),
    ],
)
def test_lora_settings_are_an_adapters(tmp_path: Path, written: dict[str, Any], adapter: dict[str, Any] | None) -> None:
    stage = read(tmp_path, written)
    assert stage.adapter == adapter
    assert stage.full == (adapter is None)
    if adapter is None:
        assert "TRL trains all weights" in stage.ignored["lora_r"]
    else:
        AdapterSettings(**adapter)
        assert ("lora_target_modules" in stage.ignored) == ("target_modules" not in adapter)


@pytest.mark.parametrize(
    ("written", "source"),
    [
        ({"dataset_name": "owner/name"}, ("owner/name", "train", None)),
        ({"dataset_name": "owner/name", "dataset_train_split": "train[:5%]"}, ("owner/name", "train[:5%]", None)),
        ({"dataset_name": "rows.jsonl"}, ("rows.jsonl", None, None)),
        ({"dataset_name": "testbed:arithmetic"}, ("testbed:arithmetic", None, None)),
        ({"datasets": [{"path": "a/b", "name": "c", "split": "test"}]}, ("a/b", "test", "c")),
        ({"datasets": [{"path": "a/b", "fraction": 0.5}]}, ("a/b", "train", None)),
        ({"datasets": [{"path": "json", "data_files": "x/rows.jsonl"}]}, ("x/rows.jsonl", None, None)),
        ({"datasets": [{"path": "parquet", "data_files": "x.parquet"}]}, ("x.parquet", None, None)),
        ({"datasets": [{"path": "a/b"}], "dataset_name": "c/d", "streaming": True}, ("a/b", "train", None)),
    ],
)
def test_the_rows_are_those_that_trl_would_take(
    tmp_path: Path, written: dict[str, Any], source: tuple[str | None, ...]
) -> None:
    stage = read(tmp_path, written)
    assert (stage.data, stage.split, stage.subset) == source
    assert set(stage.ignored) == (set(written) - {"datasets"} if len(written) > 2 else set())


@pytest.mark.parametrize(
    ("name", "reward"),
    [
        ("accuracy_reward", "trl.rewards:accuracy_reward"),
        ("my_lib.rewards.mine", "my_lib.rewards:mine"),
        ("think_format_reward", "trl.rewards:think_format_reward"),
    ],
)
def test_a_reward_function_is_named_as_a_study_names_it(tmp_path: Path, name: str, reward: str) -> None:
    assert read(tmp_path, {"reward_funcs": [name]}, "grpo").reward == reward
    assert read(tmp_path, {"reward_funcs": name}, "grpo").reward == reward


@pytest.mark.parametrize(
    ("trainer", "content", "message"),
    [
        ("sft", "a: [", ", line 1: not valid YAML ("),
        ("sft", "- a\n", ": a TRL configuration file is a mapping from settings to values"),
        ("sft", "1: 2\n", ": a TRL configuration file is a mapping from settings to values"),
        ("sft", "learning_rte: 1", ': learning_rte: TRL has no such setting (did you mean "learning_rate"?)'),
        ("sft", "warmup_ratio: 0.1", ': warmup_ratio: TRL has no such setting (did you mean "warmup_steps"?)'),
        ("sft", "max_seq_length: 1", ': max_seq_length: TRL has no such setting (did you mean "max_length"?)'),
        ("sft", "lora_rank: 8", ": lora_rank: TRL has no such setting"),
        ("sft", "beta: 0.1", ": beta: TRL has no such setting"),
        ("sft", "reward_funcs: [a.b]", ": reward_funcs: TRL has no such setting"),
        ("sft", "learning_rate: fast", ": learning_rate: 'fast' is wrong ("),
        ("sft", "lora_r: many", ": lora_r: 'many' is wrong ("),
        ("sft", "dataset_name: [a]", ": dataset_name: ['a'] is wrong ("),
        ("sft", "use_peft: perhaps", ": use_peft: 'perhaps' is wrong ("),
        ("sft", "lr_scheduler_type: sideways", ": SFTConfig refuses these settings ("),
        ("dpo", "sync_ref_model: true", ": sync_ref_model: true: a stage's reference is its start throughout"),
        ("kto", "per_device_train_batch_size: 1", ": per_device_train_batch_size: 1 and loss_type: kto"),
        (
            "sft",
            "model_init_kwargs: {rope_scaling: 2}",
            ": model_init_kwargs: not in a stage: the study loads the model",
        ),
        (
            "sft",
            "chat_template_path: x",
            ": chat_template_path: not in a stage: the stages and their measurements share",
        ),
        ("sft", "load_in_4bit: true", ": load_in_4bit: a stage starts from float32 weights, not from quantised ones"),
        ("sft", "use_peft: true\nuse_dora: true", ": use_dora: a stage's adapter has no such setting; remove it"),
        ("sft", "use_peft: true\nlora_modules_to_save: [lm_head]", ": lora_modules_to_save: a stage's adapter has no"),
        ("sft", "use_peft: true\nlora_task_type: SEQ_CLS", ": lora_task_type: SEQ_CLS, where a stage trains a causal"),
        (
            "sft",
            "datasets: [{path: a/b}, {path: c/d}]",
            ": datasets: a stage has one data set; join these into one file",
        ),
        ("sft", "datasets: a/b", ": datasets: a list of mappings with `path:` is wanted"),
        ("sft", "datasets: []", ": datasets: a list of mappings with `path:` is wanted"),
        ("sft", "datasets: [{name: a}]", ": datasets.0.path: missing"),
        (
            "sft",
            "datasets: [{path: a/b, spilt: c}]",
            ': datasets.0.spilt: TRL has no such setting (did you mean "split"?)',
        ),
        ("sft", "datasets: [{path: a/b, split: 3}]", ": datasets.0.split: 3 is wrong ("),
        ("sft", "datasets: [{path: a/b, columns: [text]}]", ": datasets.0.columns: is not supported; make a file"),
        ("sft", "datasets: [{path: json, data_files: [a, b]}]", ": datasets.0.data_files: only one file is supported"),
        ("sft", "datasets: [{path: a/b, data_files: x.jsonl}]", ": datasets.0.data_files: only one file is supported"),
        ("grpo", "reward_funcs: [a.b, c.d]", ": reward_funcs: 2 functions, where a stage has one; add them up in one"),
        ("grpo", "reward_funcs: [mine]", ": reward_funcs: mine is neither a path such as my_lib.rewards.mine nor one"),
        ("grpo", "reward_model_name_or_path: a/b", ": reward_model_name_or_path: a reward model is not supported"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, trainer: str, content: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, trainer)
    assert str(caught.value).startswith(f"{tmp_path / 'stage.yaml'}{message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError) as caught:
        read_trl_yaml(Path("gone.yaml"), TRAINERS["sft"])
    assert str(caught.value) == "gone.yaml: no such TRL configuration file; name a file that is there"


def test_the_stage_that_a_file_describes_is_trained(tiny_model_folder: Path, tmp_path: Path) -> None:
    rows = load_stage_data("testbed:instructions", "sft", seed=0, rows=16)
    rows.dataset().save_to_disk(tmp_path / "rows")
    (tmp_path / "rows").rename(tmp_path / "train")
    written = {"datasets": [{"path": "train"}], "use_peft": True, "lora_r": 2, "lora_target_modules": ["q_proj"]}
    stage = read(tmp_path, {**written, "learning_rate": "1e-2", "max_steps": 2, "packing": True, "max_length": 64})
    assert stage.adapter is not None
    run = run_stage(
        tiny_model_folder,
        tmp_path / "adapter",
        adapter=AdapterSettings(**stage.adapter),
        data=str(tmp_path / str(stage.data)),
        **stage.args,
    )
    assert run.training["learning_rate"].iloc[0] == 1e-2
    assert len(run.training) == 2


def blocks(language: str) -> list[str]:
    """The blocks of the guide in one language, without their indentation."""
    guide = Path(__file__).parents[3] / "docs" / "guides" / "stages.md"
    found = re.findall(rf"^( *)```{language}[^\n]*\n(.*?)^ *```$", guide.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def test_every_stage_of_the_guide_is_one(tmp_path: Path) -> None:
    written = [yaml.safe_load(block) for block in blocks("yaml")]
    stages = [stage for block in written if "stages" in block for stage in block["stages"].values()]
    assert [stage["trainer"] for stage in stages] == ["sft", "dpo", "kto", "grpo", "grpo", "sft"]
    for stage in stages:
        trainer_config(TRAINERS[stage["trainer"]], stage.get("args", {}), where="x", seed=0, scratch=tmp_path)
        if str(stage.get("data")).startswith("testbed:"):
            load_stage_data(stage["data"], stage["trainer"], seed=0, rows=4)
    [whole] = [block for block in written if "stages" not in block]
    stage = read(tmp_path, whole)
    assert (stage.data, stage.split, stage.full) == ("trl-lib/Capybara", "train", False)
    assert {"model_name_or_path", "eval_strategy", "output_dir", "push_to_hub"} == set(stage.ignored)


def test_the_guides_reward_can_be_called_on_rows_like_its_own(tmp_path: Path) -> None:
    [code] = [block for block in blocks("python") if block.startswith("def ")]
    (tmp_path / "guide_rewards.py").write_text(code)
    spec = "guide_rewards:short_and_right"
    check_reward(spec, ["prompt", "solution"], folder=tmp_path)
    said = [[{"role": "assistant", "content": "12"}], [{"role": "assistant", "content": "13"}]]
    given = reward_function(spec, "x", folder=tmp_path)(completions=said, prompts=["a", "b"], solution=["12", "12"])
    assert given == [0.998, -0.002]
