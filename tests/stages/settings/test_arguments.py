"""TRL's settings under TRL's names: what is wrong is told in one line before anything trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from pydantic import TypeAdapter

from limberlm.errors import UserError
from limberlm.stages.settings.arguments import trainer_config
from limberlm.stages.settings.decided import AGAINST, OWNED
from limberlm.stages.trainers import TRAINERS

EACH = pytest.mark.parametrize("trainer", TRAINERS)


def config(args: dict[str, Any], trainer: str = "sft", scratch: Path = Path("scratch"), seed: int = 11) -> Any:
    return trainer_config(TRAINERS[trainer], args, where="stages.a.args", seed=seed, scratch=scratch)


def refusal(args: dict[str, Any], trainer: str = "sft") -> str:
    with pytest.raises(UserError) as caught:
        config(args, trainer)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@EACH
def test_an_unknown_setting_is_named_with_the_nearest_known_one(trainer: str) -> None:
    message = refusal({"learning_rte": 1e-3}, trainer)
    trl_name = f"{trainer.upper()}Config"
    assert message == f'stages.a.args.learning_rte: {trl_name} has no such setting (did you mean "learning_rate"?)'
    assert refusal({"zzzz": 1}, trainer) == f"stages.a.args.zzzz: {trl_name} has no such setting"


def test_a_setting_of_the_other_trainer_is_unknown_here() -> None:
    assert "stages.a.args.beta: SFTConfig has no such setting" in refusal({"beta": 0.1})
    assert config({"beta": 0.3}, "dpo").beta == 0.3


@pytest.mark.parametrize("name", OWNED)
def test_a_setting_that_the_study_decides_is_refused(name: str) -> None:
    assert refusal({name: 1}) == f"stages.a.args.{name}: the study decides this one; remove it"


@EACH
def test_yamls_1e_4_becomes_a_number(trainer: str) -> None:
    made = config({"learning_rate": "1e-4", "max_steps": "12"}, trainer)
    assert (made.learning_rate, made.max_steps) == (1e-4, 12)
    assert type(made.learning_rate) is float


@pytest.mark.parametrize(
    ("args", "start"),
    [
        ({"learning_rate": "fast"}, "stages.a.args.learning_rate: 'fast' is wrong ("),
        ({"max_steps": 1.5}, "stages.a.args.max_steps: 1.5 is wrong ("),
        ({"max_steps": None}, "stages.a.args.max_steps: None is wrong ("),
        ({"packing": "perhaps"}, "stages.a.args.packing: 'perhaps' is wrong ("),
        ({"learning_rate": "nan"}, "stages.a.args.learning_rate: nan is no finite number"),
        ({"learning_rate": -1.0}, "stages.a.args.learning_rate: -1: it must be at least 0"),
        ({"per_device_train_batch_size": 0}, "stages.a.args.per_device_train_batch_size: 0: it must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "stages.a.args.gradient_accumulation_steps: 0: it must be at least 1"),
    ],
)
def test_a_value_of_the_wrong_type_or_size_is_refused(args: dict[str, Any], start: str) -> None:
    assert refusal(args).startswith(start)


@pytest.mark.parametrize(
    "args", [{"lr_scheduler_type": "sideways"}, {"optim": "magic"}, {"eval_strategy": "sometimes"}]
)
def test_a_value_that_is_not_one_of_trls_is_refused(args: dict[str, str]) -> None:
    assert refusal(args).startswith("stages.a.args")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"loss_weights": [1.0, 2.0]}, "`loss_weights` must have the same length as `loss_type`"),
        ({"fp16": True, "bf16": True}, "At most one of fp16 and bf16 can be True"),
    ],
)
def test_trls_own_refusal_is_passed_on_in_one_line(args: dict[str, Any], reason: str) -> None:
    assert refusal(args, "dpo").startswith(f"stages.a.args: DPOConfig refuses these settings ({reason}")


@EACH
@pytest.mark.parametrize(
    ("name", "value", "harmless"),
    [
        ("eval_strategy", "steps", "no"),
        ("eval_on_start", True, False),
        ("load_best_model_at_end", True, False),
        ("push_to_hub", True, False),
        ("hub_token", "hf_secret", None),
        ("enable_jit_checkpoint", True, False),
        ("auto_find_batch_size", True, False),
        ("fsdp", "full_shard", ""),
        ("deepspeed", "zero3.json", None),
        ("parallelism_config", {"tp_size": 2}, None),
        ("trust_remote_code", "true", "false"),
        ("model_init_kwargs", {"dtype": "bfloat16"}, None),
    ],
)
def test_what_a_study_does_its_own_way_is_refused_for_every_trainer(
    trainer: str, name: str, value: Any, harmless: Any
) -> None:
    message = refusal({name: value}, trainer)
    assert message.startswith(f"stages.a.args.{name}: not in a stage: ")
    assert message.endswith("; remove it")
    assert str(value) not in message.replace(name, "") or value is True  # no token on the screen
    config({name: harmless}, trainer)


def test_every_setting_that_is_refused_at_some_value_is_one_of_trls() -> None:
    everything = {f.name for kind in TRAINERS.values() for f in dataclasses.fields(kind.config_class())}
    assert set(AGAINST) | set(OWNED) <= everything


@pytest.mark.parametrize(
    "args",
    [
        {"eos_token": "<|im_end|>"},
        {"pad_token": "<pad>"},
        {"chat_template_path": "some/model"},
        {"dataset_text_field": "content"},
        {"dataset_kwargs": {"skip_prepare_dataset": True}},
        {"dataset_kwargs": '{"skip_prepare_dataset": true}'},
    ],
)
def test_what_supervised_stages_share_cannot_be_changed_by_one_of_them(args: dict[str, Any]) -> None:
    assert refusal(args).startswith(f"stages.a.args.{next(iter(args))}: not in a stage: ")


def test_yamls_no_is_a_strategy_and_not_false() -> None:
    assert config({"eval_strategy": False}).eval_strategy == "no"


@EACH
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_steps": 0}, "max_steps: 0: a stage has at least one step; leave it out to count epochs"),
        ({"num_train_epochs": 0}, "num_train_epochs: 0 and no max_steps: the stage would have no step"),
        ({"report_to": "wandbb"}, 'report_to: no such tracker: wandbb (did you mean "wandb"?)'),
        ({"report_to": ["neptune"]}, "report_to: neptune is not installed; install it, or remove it here"),
        ({"train_sampling_strategy": "sequentiall"}, "train_sampling_strategy: no such value: sequentiall (did you"),
    ],
)
def test_what_no_trainer_can_do_is_told_before_any_is_built(trainer: str, args: dict[str, Any], message: str) -> None:
    assert refusal(args, trainer).startswith(f"stages.a.args.{message}")


@EACH
def test_steps_and_epochs_go_together(trainer: str) -> None:
    made = config({"max_steps": 3, "num_train_epochs": 2}, trainer)
    assert (made.max_steps, made.num_train_epochs) == (3, 2)


@pytest.mark.parametrize("trainer", ["dpo", "kto", "grpo"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"sync_ref_model": True}, "sync_ref_model: true: a stage's reference is its start throughout; remove it"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha: 5 and a reference model: the noise would fall on its"),
    ],
)
def test_what_moves_the_reference_is_refused_wherever_there_is_one(
    trainer: str, args: dict[str, Any], message: str
) -> None:
    assert refusal({"beta": 0.1, **args}, trainer).startswith(f"stages.a.args.{message}")


def test_noise_is_allowed_where_there_is_no_reference() -> None:
    assert config({"neftune_noise_alpha": 5}).neftune_noise_alpha == 5
    assert config({"neftune_noise_alpha": 5}, "grpo").beta == 0


@pytest.mark.parametrize(
    ("trainer", "args", "message"),
    [
        ("sft", {"packing": True, "max_length": None}, "packing: true and max_length: null"),
        ("sft", {"padding_free": True}, "padding_free: true and max_length: 1024"),
        ("sft", {"loss_type": "nil"}, 'loss_type: no such value: nil (did you mean "nll"?)'),
        ("dpo", {"loss_type": "sigmoyd"}, 'loss_type: no such loss: sigmoyd (did you mean "sigmoid"?)'),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing: 0.1 and loss_type: sigmoid, which takes no notice of it"),
        ("dpo", {"loss_type": "exo_pair"}, "loss_type: exo_pair and label_smoothing: 0"),
        ("kto", {"train_sampling_strategy": "random"}, "train_sampling_strategy: random and loss_type: kto"),
        ("kto", {"per_device_train_batch_size": 1}, "per_device_train_batch_size: 1 and loss_type: kto"),
        ("kto", {"loss_type": "kton"}, 'loss_type: no such value: kton (did you mean "kto"?)'),
    ],
)
def test_what_a_trainer_would_find_out_late_or_never_is_told_at_once(
    trainer: str, args: dict[str, Any], message: str
) -> None:
    assert refusal(args, trainer).startswith(f"stages.a.args.{message}")


@pytest.mark.parametrize(
    ("trainer", "args"),
    [
        ("sft", {"packing": True}),
        ("sft", {"padding_free": True, "max_length": None}),
        ("dpo", {"label_smoothing": 0.1, "loss_type": "robust"}),
        ("dpo", {"precompute_ref_log_probs": True}),
        ("kto", {"precompute_ref_log_probs": True}),
        ("kto", {"loss_type": "apo_zero_unpaired", "train_sampling_strategy": "random"}),
        ("kto", {"loss_type": "apo_zero_unpaired", "per_device_train_batch_size": 1}),
    ],
)
def test_what_only_looks_like_a_contradiction_passes(trainer: str, args: dict[str, Any]) -> None:
    assert config(args, trainer)


def test_one_loss_may_stand_for_a_list_of_them() -> None:
    assert config({"loss_type": "hinge"}, "dpo").loss_type == ["hinge"]
    assert config({"loss_type": ["sigmoid", "sft"]}, "dpo").loss_type == ["sigmoid", "sft"]


@EACH
def test_everything_else_keeps_trls_defaults_but_what_the_kind_names(trainer: str, tmp_path: Path) -> None:
    ours = config({}, trainer, tmp_path)
    theirs = TRAINERS[trainer].config_class()(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    changed = {f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)}
    expected = {"seed", "data_seed", "save_strategy", "logging_steps", "disable_tqdm", "logging_nan_inf_filter"}
    on_cpu = set() if torch.cuda.is_available() else {"gradient_checkpointing", "activation_checkpointing"}
    assert changed == expected | on_cpu | set(TRAINERS[trainer].defaults)
    assert (ours.seed, ours.data_seed, ours.output_dir) == (11, 11, str(tmp_path))
    assert (ours.report_to, ours.save_strategy, ours.logging_steps) == ([], "no", 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"per_device_train_batch_size": 6},
            ": GRPOConfig refuses these settings (generation_batch_size (6) must be divisible by num_generations (8).)",
        ),
        ({"remove_unused_columns": True}, ".remove_unused_columns: true and a reward: "),
        ({"reward_weights": [1.0, 2.0]}, ".reward_weights: 2 weights and one reward; drop some"),
        ({"sync_ref_model": True}, ".sync_ref_model: true: "),
        ({"num_generations": 1}, ": GRPOConfig refuses these settings (GRPO requires at least 2 generations"),
    ],
)
def test_settings_that_contradict_each_other_name_both(args: dict[str, Any], message: str) -> None:
    assert refusal(args, "grpo").startswith(f"stages.a.args{message}")


def test_a_user_may_have_trls_default_back() -> None:
    assert config({}, "grpo").disable_dropout
    assert not config({"disable_dropout": False}, "grpo").disable_dropout


@EACH
def test_every_setting_of_trl_can_be_checked_and_its_default_passes(trainer: str) -> None:
    config_class = TRAINERS[trainer].config_class()
    hints = get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.init and field.default is not dataclasses.MISSING:
            assert TypeAdapter(hints[field.name]).validate_python(field.default) == field.default


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds without a GPU")
@EACH
def test_without_a_gpu_there_is_no_autocast_and_no_recomputation_unless_asked_for(trainer: str) -> None:
    made = config({}, trainer)
    assert (made.use_cpu, made.bf16, made.fp16, made.gradient_checkpointing) == (True, False, False, False)
    assert config({"bf16": True, "gradient_checkpointing": True}, trainer).bf16
