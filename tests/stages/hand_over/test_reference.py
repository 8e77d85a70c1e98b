"""Each way to a wrong reference model is refused before a step is taken from it, or cannot be taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from limberlm.errors import NodeFailed, UserError
from limberlm.stages.hand_over import Left
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.trainers import TRAINERS
from tests.stages.conftest import Trained
from tests.stages.runs import ADAPTER, Opened, load, run_stage

ARGS: dict[str, dict[str, Any]] = {"grpo": {"beta": 0.1}}
WITH_REFERENCE = pytest.mark.parametrize(
    "trainer", ["dpo", pytest.param("kto", marks=pytest.mark.slow), pytest.param("grpo", marks=pytest.mark.slow)]
)
NOT_THE_START = "the reference model is not the stage's start: its logits are"


@dataclass(frozen=True)
class Stacked(Opened):
    """A kind whose model has two adapters on, both active: the earlier one, and the one to train."""

    base: Path = Path()
    earlier: Path = Path()

    def trainer_class(self) -> Any:
        build = super().trainer_class()

        def stacked(*, model: Any, peft_config: Any, **settings: Any) -> Any:
            both = PeftModel.from_pretrained(load(self.base), self.earlier, adapter_name="earlier")
            both.add_adapter("default", peft_config)
            both.base_model.set_adapter(["earlier", "default"])
            return build(model=both, peft_config=None, **settings)

        return stacked


@WITH_REFERENCE
def test_two_active_adapters_are_refused(tiny_model_folder: Path, tmp_path: Path, sft: Trained, trainer: str) -> None:
    more = {"base": tiny_model_folder, "earlier": sft.adapter}
    kind = Stacked(**{**vars(TRAINERS[trainer]), **more})
    with pytest.raises(NodeFailed, match=NOT_THE_START):
        run_stage(
            tiny_model_folder,
            tmp_path / "adapter",
            trainer,
            kind=kind,
            adapters=[sft.adapter],
            hand_over="stack",
            **ARGS.get(trainer, {}),
        )
    assert not (tmp_path / "adapter").exists()


def test_a_wrong_reference_that_the_first_loss_would_not_give_away_is_refused(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    """Under 16-bit autocast a first loss may be 1e-2 off; after a small adapter the wrong one is less than that off."""
    card, weights = sft.adapter / "adapter_config.json", load_file(sft.adapter / "adapter_model.safetensors")
    small = tmp_path / "small"
    small.mkdir()
    (small / card.name).write_text(card.read_text())
    save_file({k: v * (0.02 if "lora_B" in k else 1) for k, v in weights.items()}, small / "adapter_model.safetensors")
    settings: dict[str, Any] = {"adapters": [small], "bf16": True, "max_steps": 1}
    unchecked = Stacked(**{**vars(TRAINERS["dpo"]), "base": tiny_model_folder, "earlier": small})
    with pytest.raises(NodeFailed, match=NOT_THE_START):
        run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", kind=unchecked, **settings)
    trainer = unchecked.trainers[0]
    trainer.train()
    assert abs(trainer.state.log_history[0]["loss"] - math.log(2)) < 1e-2
    run = run_stage(tiny_model_folder, tmp_path / "right", "dpo", **settings)
    assert run.hand_over.reference < 1e-6


def test_stack_hands_trl_one_adapter_on_plain_weights(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    second = run_stage(
        tiny_model_folder, tmp_path / "second", adapters=[sft.adapter], hand_over="stack", max_steps=1, seed=1
    )
    kind = Opened.of(TRAINERS["dpo"])
    left = [sft.run.left, second.left]
    run_stage(tiny_model_folder, tmp_path / "third", "dpo", kind=kind, left=left, hand_over="stack", max_steps=1)
    model = kind.trainers[0].model
    assert set(model.peft_config) == {"default"}
    moved = [p for name, p in model.named_parameters() if "lora_B" in name and p.abs().max() > 0]
    assert len(moved) == 2 * 7  # the trained adapter took part


@pytest.mark.slow
def test_an_adapter_that_had_another_name_is_continued(tiny_model_folder: Path, tmp_path: Path) -> None:
    """TRL copies the adapter called `default`, and raises KeyError where there is none."""
    torch.manual_seed(0)
    named = get_peft_model(load(tiny_model_folder), ADAPTER.lora(), adapter_name="sft")
    for name, parameter in named.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    named.save_pretrained(tmp_path)
    left = [Left("lora", tmp_path / "sft")]
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", left=left, hand_over="continue", max_steps=1)
    assert run.hand_over.trained == "continued"
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("policy", "adapter"),
    [
        ("continue", ADAPTER),
        ("merge", None),
        pytest.param("merge", ADAPTER, marks=pytest.mark.slow),
        pytest.param("stack", ADAPTER, marks=pytest.mark.slow),
        pytest.param("continue", None, marks=pytest.mark.slow),
    ],
)
def test_a_reference_that_is_read_beforehand_is_the_start_too(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained, policy: Any, adapter: AdapterSettings | None
) -> None:
    run = run_stage(
        tiny_model_folder,
        tmp_path / "out",
        "dpo",
        left=[sft.run.left],
        hand_over=policy,
        adapter=adapter,
        max_steps=1,
        precompute_ref_log_probs=True,
    )
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-6)


def test_a_policy_that_is_not_the_start_is_refused_before_the_first_step(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    """SFT has no reference whose loss would tell."""
    steps: list[int] = []
    kind = Stacked(**{**vars(TRAINERS["sft"]), "base": tiny_model_folder, "earlier": sft.adapter})
    with pytest.raises(NodeFailed, match="does not start where the one before it ended"):
        run_stage(
            tiny_model_folder, tmp_path / "adapter", kind=kind, progress=lambda step, steps_, loss: steps.append(step)
        )
    assert steps == []
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_dropout_in_a_continued_adapter_leaves_nothing_to_assert(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    """Policy and reference drop different units then, and neither value is wrong."""
    settings: dict[str, Any] = {"adapters": [sft.adapter], "disable_dropout": False, "max_steps": 1}
    continued = run_stage(tiny_model_folder, tmp_path / "one", "dpo", hand_over="continue", **settings)
    assert continued.hand_over.first_step == {}
    assert continued.first_loss != pytest.approx(math.log(2), abs=1e-4)
    fresh = run_stage(tiny_model_folder, tmp_path / "two", "dpo", **settings)  # B is 0: dropout changes nothing
    assert fresh.hand_over.first_step == {"loss": (pytest.approx(math.log(2), abs=1e-6), math.log(2))}


# --- continuing with other settings than the adapter has


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, r"adapter\.r: 8, .* an adapter with r: 4;"),
        ({"lora_alpha": 16}, r"adapter\.lora_alpha: 16, .* lora_alpha: 8;"),
        ({"lora_dropout": 0.0}, r"adapter\.lora_dropout: 0\.0, .* lora_dropout: 0\.05;"),
        (
            {"target_modules": ("q_proj", "v_proj")},
            r"adapter\.target_modules: \('q_proj', 'v_proj'\), .* adapts model\.layers\.0\.mlp\.down_proj;",
        ),
    ],
)
def test_continue_with_another_adapter_is_refused(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained, changes: dict[str, Any], message: str
) -> None:
    other = ADAPTER.model_copy(update=changes)
    with pytest.raises(UserError, match=message):
        run_stage(tiny_model_folder, tmp_path / "x", adapters=[sft.adapter], hand_over="continue", adapter=other)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_same_modules_by_other_words_are_the_same_adapter(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    words = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    named = ADAPTER.model_copy(update={"target_modules": words})
    run = run_stage(
        tiny_model_folder, tmp_path / "x", adapters=[sft.adapter], hand_over="continue", adapter=named, max_steps=1
    )
    assert run.hand_over.trained == "continued"


def test_fewer_modules_than_asked_for_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load(tiny_model_folder), config).save_pretrained(tmp_path / "q")
    with pytest.raises(UserError, match=r"target_modules: all-linear, .* does not adapt model\.layers\.0\.mlp\.down"):
        run_stage(tiny_model_folder, tmp_path / "x", adapters=[tmp_path / "q"], hand_over="continue")
