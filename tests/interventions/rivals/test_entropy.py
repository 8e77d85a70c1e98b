"""EntropyPreservation in SFTTrainer: a run with it is a run whose loss is GEM's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from limberlm.errors import UserError
from limberlm.interventions.rivals.entropy import EntropyPreservation, _stands_for
from limberlm.interventions.seats.tokens import choose
from tests.interventions.held import load, logged, parameters, same, without_dropout
from tests.observe.training.test_callback_trainers import lora, trainer

B = 0.7


def gem(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """b CE(z/b) over the trainer's own number of items, with the logits and torch's own cross-entropy."""
    logits, target = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return (
        B
        * torch.nn.functional.cross_entropy(logits / B, target, ignore_index=-100, reduction="sum")
        / num_items_in_batch
    )


def texts(count: int = 14) -> Dataset:
    """Texts of unequal lengths, every token of which counts."""
    return Dataset.from_list([{"text": ("one word and " * 12)[: 5 + 9 * number]} for number in range(count)])


def sft(base: Path, out: Path, *callbacks: Any, loss: Any = None, **args: Any) -> SFTTrainer:
    given = without_dropout({"model": load(base), "adapter": lora()})
    arguments = {
        "output_dir": str(out),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "max_grad_norm": 0.0,
        **args,
    }
    made = SFTTrainer(
        model=given["model"],
        args=SFTConfig(**arguments),
        train_dataset=texts(),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=given["adapter"],
        callbacks=list(callbacks),
        compute_loss_func=loss,
    )
    made.train()
    return made


@pytest.mark.parametrize("args", [{}, {"gradient_checkpointing": False}, {"packing": True, "max_length": 48}])
def test_a_run_with_it_is_a_run_whose_loss_is_gems(
    tiny_model_folder: Path, tmp_path: Path, args: dict[str, Any]
) -> None:
    """Windows of three micro-batches, the last of an epoch shorter, of sequences of unequal lengths."""
    ours = sft(tiny_model_folder, tmp_path, EntropyPreservation(), **args)
    theirs = sft(tiny_model_folder, tmp_path, loss=gem, **args)
    plain = sft(tiny_model_folder, tmp_path, **args)
    one, other, neither = parameters(ours), parameters(theirs), parameters(plain)
    trained = [name for name in one if "lora_" in name]
    error = max(float((one[name] - other[name]).norm() / other[name].norm()) for name in trained)
    effect = max(float((neither[name] - other[name]).norm() / other[name].norm()) for name in trained)
    assert error < 1e-3 < 0.02 < effect  # Adam turns rounding of a gradient near zero into a step
    norms, wanted = logged(ours, "grad_norm"), logged(theirs, "grad_norm")
    assert norms[0] == pytest.approx(wanted[0], rel=1e-5)
    assert norms == pytest.approx(wanted, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 13), min_size=1, max_size=3), st.integers(2, 6))
def test_some_tokens_of_each_sequence_stand_for_all(lengths: list[int], most: int) -> None:
    """Whatever the lengths: over the places where the spacing may start, each token counts once on average."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    inputs = {
        "input_ids": positions + 5,
        "position_ids": positions,
        "labels": positions.masked_fill(positions < 1, -100),
    }
    every, sequences = choose(inputs, "completion", None, 0, predicting=True)
    strides = sequences.unique_consecutive(return_counts=True)[1].add(most - 1).div(most, rounding_mode="floor")
    starts = math.lcm(*strides.tolist())
    counts = torch.zeros(positions.numel())
    for start in range(starts):
        index, some = choose(inputs, "completion", most, start, predicting=True)
        counts[index] += _stands_for(some, sequences, most)
    wanted = torch.zeros(positions.numel())
    wanted[every] = 1
    torch.testing.assert_close(counts / starts, wanted)


def test_the_entropy_stays_higher(tiny_model_folder: Path, tmp_path: Path) -> None:
    runs = [sft(tiny_model_folder, tmp_path, EntropyPreservation(weight=w), max_steps=12) for w in (0.0, 1.0, 3.0)]
    ends = [logged(run, "entropy")[-1] for run in runs]
    assert ends[0] < ends[1] < ends[2]


def test_weight_zero_changes_no_bit_and_tiny_weight_no_weight(tiny_model_folder: Path, tmp_path: Path) -> None:
    plain = parameters(sft(tiny_model_folder, tmp_path))
    for weight in (0.0, 1e-30):
        assert same(parameters(sft(tiny_model_folder, tmp_path, EntropyPreservation(weight=weight))), plain)


@pytest.mark.parametrize("kind", ["dpo", "kto", "grpo"])
def test_other_trainers_are_refused(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    made = trainer(kind, tiny_model_folder, tmp_path, EntropyPreservation(), adapter=lora())
    with pytest.raises(UserError, match=f"entropy: cannot be used with trainer {kind}, only with sft"):
        made.train()


@pytest.mark.parametrize("args", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_a_loss_that_is_not_the_cross_entropy_is_refused(
    tiny_model_folder: Path, tmp_path: Path, args: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=f"entropy: {next(iter(args))}: "):
        sft(tiny_model_folder, tmp_path, EntropyPreservation(), **args)


def test_a_loss_function_of_ones_own_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="entropy: the trainer's loss is computed outside the model"):
        sft(tiny_model_folder, tmp_path, EntropyPreservation(), loss=gem)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": 0.0}, "entropy: temperature: "),
        ({"temperature": 1.0}, "entropy: temperature: "),
        ({"weight": -1.0}, "entropy: weight: "),
        ({"share": 0.1}, "entropy: share: "),
        ({"tokens": "all"}, "entropy: tokens: "),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        EntropyPreservation(**settings)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
