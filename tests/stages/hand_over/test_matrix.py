"""Every kind of stage under every hand-over: it starts where the last one ended, from the right reference, and leaves
exactly what it trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import LlamaForCausalLM

from limberlm.stages import TRAINERS, AdapterSettings, StageRun
from limberlm.stages.hand_over import HandOver, Left, checkpoint
from tests.stages.runs import DATA, FIRST, Opened, load, logits, relative_rms, run_stage, update

# What the stage teaches, as a testbed skill, and by which trainer.
KINDS = {
    **{trainer: (trainer, data.removeprefix("testbed:")) for trainer, data in DATA.items()},
    "safety": ("sft", "refusals"),
    "math": ("sft", "arithmetic"),
    "code": ("sft", "programs"),
    "cot": ("sft", "long_arithmetic"),
}
ARGS: dict[str, dict[str, Any]] = {"grpo": {"beta": 0.1}}
# Without dropout the first loss of supervised fine-tuning is the checkpoint's own under `continue` too.
ADAPTER = AdapterSettings(r=4, lora_alpha=8, lora_dropout=0.0)


@dataclass(frozen=True)
class Cell:
    """One stage after a supervised one, looked into."""

    policy: HandOver
    trainer: str
    run: StageRun
    opened: Any
    batch: dict[str, torch.Tensor]
    base: Path
    before: Left

    @property
    def held(self) -> nn.Module:
        """The trained model as its trainer holds it."""
        return self.opened.model

    def checkpoint(self, *left: Left) -> LlamaForCausalLM:
        return checkpoint(self.base, left, self.policy)


@pytest.fixture(scope="session")
def earlier(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A supervised stage that has changed the model well beyond rounding."""
    out = tmp_path_factory.mktemp("earlier") / "adapter"
    return run_stage(tiny_model_folder, out, adapter=ADAPTER, max_steps=6, seed=7).left


def cell(policy: HandOver, kind: str) -> Any:
    slow = () if kind in DATA else (pytest.mark.slow,)
    return pytest.param((policy, kind), id=f"{policy}-{kind}", marks=slow)


@pytest.fixture(scope="module", params=[cell(policy, kind) for policy in get_args(HandOver) for kind in KINDS])
def stage(
    request: pytest.FixtureRequest, tiny_model_folder: Path, earlier: Left, tmp_path_factory: pytest.TempPathFactory
) -> Cell:
    """Two steps of one kind of stage, after `earlier`."""
    policy, name = request.param
    trainer, skill = KINDS[name]
    kind = Opened.of(TRAINERS[trainer])
    run = run_stage(
        tiny_model_folder,
        tmp_path_factory.mktemp(name) / "adapter",
        trainer,
        kind=kind,
        left=[earlier],
        hand_over=policy,
        adapter=ADAPTER,
        data=f"testbed:{skill}",
        rows=16,
        **ARGS.get(trainer, {}),
    )
    return Cell(policy, trainer, run, kind.trainers[0], kind.batches[0], tiny_model_folder, earlier)


def test_the_first_step_is_that_of_an_untouched_policy(stage: Cell) -> None:
    first = stage.run.training.iloc[0]
    expected = FIRST[stage.trainer]
    assert {name: (first[name], value) for name, value in expected.items()} == stage.run.hand_over.first_step
    assert all(first[name] == pytest.approx(value, abs=1e-6) for name, value in expected.items())
    if stage.trainer == "sft":
        assert stage.run.first_loss == pytest.approx(
            completion_loss(stage.checkpoint(stage.before), stage.batch), rel=1e-4
        )
        assert abs(completion_loss(load(stage.base), stage.batch) - stage.run.first_loss) > 0.01  # not the base's


def completion_loss(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> float:
    """Mean cross-entropy over the labelled tokens, by hand in float64."""
    with torch.no_grad():
        found = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    labels = batch["labels"][:, 1:]
    chosen = found[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return float(-chosen[labels != -100].mean())


def test_the_stage_starts_with_the_function_the_last_one_ended_with(stage: Cell) -> None:
    ended = PeftModel.from_pretrained(load(stage.base), stage.before.folder)
    assert relative_rms(logits(stage.checkpoint(stage.before)), logits(ended)) < 1e-5
    assert stage.run.hand_over.continuity < 1e-5


def test_the_reference_has_the_logits_of_the_start(stage: Cell) -> None:
    assert stage.run.hand_over.reference == (stage.run.hand_over.continuity if FIRST[stage.trainer] else None)


def test_what_is_left_is_the_function_that_was_trained(stage: Cell) -> None:
    trained, left = logits(stage.held), logits(stage.checkpoint(stage.before, stage.run.left))
    assert relative_rms(left, trained) < 1e-5
    if stage.trainer != "grpo":  # whose rewards are all 0 on an untrained model
        assert relative_rms(left, logits(stage.checkpoint(stage.before))) > 1e-3


def test_the_weights_move_by_s_b_a_and_by_nothing_else(stage: Cell) -> None:
    start = {name: weight.double() for name, weight in stage.checkpoint(stage.before).state_dict().items()}
    end = stage.checkpoint(stage.before, stage.run.left).state_dict()
    moved = update(stage.run.left.folder)
    if stage.policy == "continue":
        moved = {name: now - update(stage.before.folder)[name] for name, now in moved.items()}
    assert len(moved) == 2 * 7
    for name, weight in end.items():
        wanted = start[name] + moved.get(name, 0)
        assert (weight.double() - wanted).abs().max() < 2e-7 * max(1.0, float(wanted.abs().max()))


def test_the_trained_adapter_is_the_only_one_active_and_the_only_one_saved(stage: Cell) -> None:
    copies = {"ref"} if stage.policy == "continue" and FIRST[stage.trainer] else set()
    assert set(stage.held.peft_config) == {"default"} | copies
    assert stage.held.active_adapters == ["default"]
    assert sorted(path.name for path in stage.run.left.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert stage.run.hand_over.trained == ("continued" if stage.policy == "continue" else "fresh")


def test_a_copy_kept_as_the_reference_stays_the_start(stage: Cell) -> None:
    held = dict(stage.held.named_parameters())
    copies = {name: weight for name, weight in held.items() if ".ref." in name}
    assert bool(copies) == (stage.policy == "continue" and bool(FIRST[stage.trainer]))
    started = PeftModel.from_pretrained(load(stage.base), stage.before.folder).state_dict()
    for name, weight in copies.items():
        assert torch.equal(weight, started[name.replace(".ref.", ".default.")])


def test_the_trainer_is_given_the_checkpoint_to_the_bit(stage: Cell) -> None:
    """Adapters aside, training changed none of it."""
    held = stage.held.get_base_model().state_dict()
    given = load(stage.base) if stage.policy == "continue" else stage.checkpoint(stage.before)
    for name, weight in given.state_dict().items():
        part = name if name in held else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(held[part], weight)
