"""A stage trains its adapter and nothing else, starts where it must, and repeats to the byte."""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from limberlm.errors import NodeFailed, UserError
from limberlm.stages.dpo import DPO
from limberlm.stages.kind import TrainerKind
from limberlm.stages.settings.adapter import AdapterSettings
from limberlm.stages.sft import SFT
from limberlm.stages.trainers import TRAINERS
from tests.stages.conftest import Trained
from tests.stages.runs import ADAPTER, Displaced, load, run_stage


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


# --- what training changes


def test_only_the_adapter_is_trained(sft: Trained) -> None:
    after = {name.replace(".base_layer", ""): tensor for name, tensor in sft.model.state_dict().items()}
    for name, tensor in sft.before.items():
        assert torch.equal(after[name], tensor), name
    assert not any(p.requires_grad for name, p in sft.model.named_parameters() if "lora_" not in name)
    moved = [name for name, tensor in tensors(sft.adapter).items() if "lora_B" in name and tensor.abs().max() > 0]
    assert len(moved) == 2 * 7  # B starts at zero: every projection of both blocks has learnt


def test_a_real_run_lowers_the_loss(sft: Trained) -> None:
    losses = sft.run.training["loss"]
    assert sft.run.first_loss == losses.iloc[0] > 0
    assert losses.iloc[-5:].mean() < 0.95 * losses.iloc[:5].mean()


def test_every_step_is_logged_and_reported(sft: Trained) -> None:
    table = sft.run.training
    assert list(table["step"]) == list(range(1, 31))
    assert list(table.columns[:2]) == ["step", "loss"]
    assert {"learning_rate", "grad_norm", "num_tokens"} <= set(table.columns)
    assert all(dtype.kind in "if" for dtype in table.dtypes)
    assert not [name for name in table if name.endswith(("runtime", "per_second", "time"))]
    assert sft.seen == [(step, 30, loss) for step, loss in zip(table["step"], table["loss"], strict=True)]


def test_the_saved_adapter_is_the_trained_one(tiny_model_folder: Path, sft: Trained) -> None:
    again = PeftModel.from_pretrained(load(tiny_model_folder), sft.adapter).base_model.model.state_dict()
    trained = {name: tensor for name, tensor in sft.model.state_dict().items() if "lora_" in name}
    assert len(trained) == 2 * 2 * 7
    assert all(torch.equal(again[name], tensor) for name, tensor in trained.items())


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_prompts_that_fill_the_context_leave_no_row_and_are_refused(
    tiny_model_folder: Path, tmp_path: Path, trainer: str
) -> None:
    row = {"prompt": "word " * 90, "completion": " a", "chosen": " a", "rejected": " b"}
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    with pytest.raises(
        UserError, match=r"rows\.jsonl: \w+Trainer leaves no row to train on: .* max_length \(16 tokens\)"
    ):
        run_stage(tiny_model_folder, tmp_path / "adapter", trainer, data=str(tmp_path / "rows.jsonl"), max_length=16)


# --- what is written


def test_an_adapter_is_float32_safetensors_and_a_card_and_nothing_else(sft: Trained) -> None:
    assert sorted(path.name for path in sft.adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {tensor.dtype for tensor in tensors(sft.adapter).values()} == {torch.float32}
    assert not [path for suffix in ("bin", "pt", "pth", "pkl") for path in sft.adapter.parent.rglob(f"*.{suffix}")]


def test_the_card_names_the_base_and_is_sorted(sft: Trained) -> None:
    text = (sft.adapter / "adapter_config.json").read_text()
    card = json.loads(text)
    assert card["base_model_name_or_path"] == "the base"
    assert card["target_modules"] == sorted(card["target_modules"])
    assert (card["r"], card["lora_alpha"]) == (4, 8)
    assert text == json.dumps(card, indent=2, sort_keys=True) + "\n"


def test_an_adapter_trained_under_16_bit_autocast_is_saved_in_float32(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", max_steps=1, bf16=True)
    assert {tensor.dtype for tensor in tensors(tmp_path / "adapter").values()} == {torch.float32}
    assert run.hand_over.continuity < 1e-6  # read outside autocast


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_whatever_their_hash_seed(tiny_model_folder: Path, tmp_path: Path) -> None:
    source = os.pathsep.join(["src", os.environ.get("PYTHONPATH", "")])
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.stages.runs", tiny_model_folder, tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )
        for seed in "12"
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    for trainer in TRAINERS:
        one, two = ({p.name: p.read_bytes() for p in (tmp_path / seed / trainer).iterdir()} for seed in "12")
        assert one == two
        assert sorted(one) == ["adapter_config.json", "adapter_model.safetensors"]


SLOW = pytest.mark.slow
EACH = [pytest.param(name, marks=[] if name in ("sft", "grpo") else SLOW) for name in TRAINERS]


@pytest.mark.parametrize("trainer", EACH)
def test_a_second_run_writes_the_same_bytes_and_another_seed_others(
    tiny_model_folder: Path, tmp_path: Path, trainer: str
) -> None:
    runs = {}
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        torch.manual_seed(len(runs))  # what ran before must not matter
        runs[name] = run_stage(tiny_model_folder, tmp_path / name, trainer, seed=seed)
    files = {name: (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in runs}
    assert files["one"] == files["again"] != files["other"]
    assert runs["one"].training.equals(runs["again"].training)
    cards = {(tmp_path / name / "adapter_config.json").read_bytes() for name in runs}
    assert len(cards) == 1


def test_the_same_seed_starts_from_the_same_a_wherever_the_stage_stands(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    def initial(name: str, **settings: Any) -> dict[str, torch.Tensor]:
        run_stage(tiny_model_folder, tmp_path / name, max_steps=1, learning_rate=0.0, **settings)
        saved = tensors(tmp_path / name)
        assert all(not tensor.any() for key, tensor in saved.items() if "lora_B" in key)
        return {key: tensor for key, tensor in saved.items() if "lora_A" in key}

    first, later, other = initial("first"), initial("later", adapters=[sft.adapter]), initial("other", seed=1)
    assert all(torch.equal(first[key], later[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("adapter", "error"),
    [(ADAPTER, KeyboardInterrupt), (None, OSError), pytest.param(ADAPTER, OSError, marks=SLOW)],
)
def test_after_an_exception_nothing_is_there(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained, adapter: AdapterSettings | None, error: type[BaseException]
) -> None:
    kept = []

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step == 2:
            kept.extend(path for path in tmp_path.rglob("step-000001/*") if path.suffix == ".safetensors")
            raise error

    with pytest.raises(error):
        run_stage(
            tiny_model_folder,
            tmp_path / "out",
            "dpo",
            left=[sft.run.left],
            adapter=adapter,
            checkpoints=2,
            progress=interrupt,
        )
    assert len(kept) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_holds_a_stage_is_refused_and_left_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / ".out.stage" / "adapter" / "x"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(UserError, match=r"\.out\.stage/adapter: exists already; choose another folder"):
        run_stage(tiny_model_folder, tmp_path / "out")
    assert kept.read_text() == "mine"


# --- where a stage must start


def test_dpo_after_a_merged_stage_starts_at_ln_2(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", adapters=[sft.adapter], max_steps=3)
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert abs(run.training["loss"].iloc[-1] - math.log(2)) > 1e-4  # and then it moves
    assert run.training["rewards/margins"].iloc[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("loss", "value"), [("hinge", 1.0), ("ipo", 1 / (4 * 0.2**2))])
def test_other_losses_start_at_their_own_value(
    tiny_model_folder: Path, tmp_path: Path, loss: str, value: float
) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", loss_type=loss, beta=0.2, max_steps=1)
    assert run.first_loss == pytest.approx(value, abs=1e-4)


@dataclass(frozen=True)
class WrongReference(TrainerKind):
    """DPO whose reference is some other model than the stage's start."""

    reference: Any = None

    def trainer_class(self) -> Any:
        return functools.partial(super().trainer_class(), ref_model=self.reference)


def test_a_wrong_reference_stops_the_stage_before_its_first_step(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    steps: list[int] = []
    wrong = WrongReference(**vars(DPO), reference=load(tiny_model_folder))
    with pytest.raises(NodeFailed, match=r"the reference model is not the stage's start: its logits are 0\.\d+ apart"):
        run_stage(
            tiny_model_folder,
            tmp_path / "adapter",
            "dpo",
            kind=wrong,
            adapters=[sft.adapter],
            progress=lambda step, steps_, loss: steps.append(step),
        )
    assert steps == []
    assert not (tmp_path / "adapter").exists()


def test_a_policy_that_is_not_its_reference_stops_the_stage_at_its_first_step(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    kind = Displaced(**vars(DPO))
    with pytest.raises(NodeFailed, match=r"the first step's loss is \d\.\d+ where an untouched policy gives 0\.693147"):
        run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", kind=kind)
    assert not (tmp_path / "adapter").exists()


def test_the_right_reference_passed_by_hand_goes_through(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    same = load(tiny_model_folder, [sft.adapter])
    kind = WrongReference(**vars(DPO), reference=same)
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "dpo", kind=kind, adapters=[sft.adapter])
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_step(tiny_model_folder: Path, tmp_path: Path) -> None:
    reached = []
    with pytest.raises(NodeFailed, match=r"^the loss is (nan|inf) at step 2: lower the learning rate"):
        run_stage(
            tiny_model_folder,
            tmp_path / "adapter",
            learning_rate=1e30,
            progress=lambda step, steps, loss: reached.append(step),
        )
    assert reached == [1]
    assert not (tmp_path / "adapter").exists()


def test_a_last_step_that_blows_up_stops_the_stage(tiny_model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="after the last step the model's logits are not finite: lower the learning"):
        run_stage(tiny_model_folder, tmp_path / "adapter", max_steps=1, learning_rate=1e30)
    assert not (tmp_path / "adapter").exists()


def test_supervised_fine_tuning_may_start_anywhere(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", adapters=[sft.adapter], max_steps=1)
    assert run.first_loss < sft.run.first_loss
    assert SFT.first_step(None) == {}


@pytest.mark.parametrize("trainer", ["dpo", pytest.param("kto", marks=SLOW), pytest.param("grpo", marks=SLOW)])
def test_dropout_is_off_whatever_the_adapter_says(tiny_model_folder: Path, tmp_path: Path, trainer: str) -> None:
    bytes_ = []
    for dropout in (0.0, 0.5):
        out = tmp_path / str(dropout)
        adapter = AdapterSettings(r=4, lora_alpha=8, lora_dropout=dropout)
        run_stage(tiny_model_folder, out, trainer, adapter=adapter)
        bytes_.append((out / "adapter_model.safetensors").read_bytes())
    assert bytes_[0] == bytes_[1]


def test_what_the_caller_froze_stays_frozen(tiny_model_folder: Path, tmp_path: Path) -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    run_stage(tiny_model_folder, tmp_path / "adapter", max_steps=1)
    assert gc.get_freeze_count() >= before * 0.9  # some of it has died since
