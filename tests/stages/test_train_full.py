"""A stage that trains all weights starts from the checkpoint, takes it as its reference, and leaves a usable model."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaForCausalLM

from limberlm.errors import NodeFailed
from limberlm.stages import TRAINERS, StageRun
from limberlm.stages.hand_over import Left, checkpoint
from limberlm.stages.hand_over.keep import kept_steps
from tests.stages.conftest import Trained
from tests.stages.runs import FIRST, Opened, load, logits, relative_rms, run_stage

RATE = 1e-3
ARGS: dict[str, dict[str, Any]] = {"grpo": {"beta": 0.1}}


@dataclass(frozen=True)
class Full:
    """One full-weight stage after an adapter stage, looked into."""

    name: str
    run: StageRun
    trainer: Any
    before: Left
    base: Path
    scratch: Path

    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.left.folder / "model.safetensors")


def full_stage(base: Path, out: Path, trainer: str, before: Left, **settings: Any) -> Full:
    kind = Opened.of(TRAINERS[trainer])
    options = {"kind": kind, "left": [before], "learning_rate": RATE, **ARGS.get(trainer, {}), **settings}
    run = run_stage(base, out, trainer, adapter=None, **options)
    return Full(trainer, run, kind.trainers[0], before, base, out.parent / "scratch")


# TRL takes a reference in one of two ways, by an argument's default (DPO, KTO) or always (GRPO): one of each is fast.
EACH = [pytest.param(name, marks=[] if name in ("dpo", "grpo") else pytest.mark.slow) for name in TRAINERS]


@pytest.fixture(scope="module", params=EACH)
def full(
    request: pytest.FixtureRequest, tiny_model_folder: Path, sft: Trained, tmp_path_factory: pytest.TempPathFactory
) -> Full:
    """Two steps of each trainer."""
    out = tmp_path_factory.mktemp(request.param) / "model"
    return full_stage(tiny_model_folder, out, request.param, sft.run.left, checkpoints=1)


def test_the_first_step_is_that_of_an_untouched_policy(full: Full) -> None:
    first = full.run.training.iloc[0]
    assert full.run.hand_over.first_step == {name: (first[name], value) for name, value in FIRST[full.name].items()}
    assert all(first[name] == pytest.approx(value, abs=1e-6) for name, value in FIRST[full.name].items())
    assert full.run.hand_over.continuity < 1e-5
    assert full.run.hand_over.reference == (full.run.hand_over.continuity if FIRST[full.name] else None)
    assert full.run.hand_over.trained == "full"
    assert full.run.hand_over.merge_rounding is None


def test_the_reference_is_the_checkpoint_to_the_bit(full: Full) -> None:
    reference = getattr(full.trainer, "ref_model", None)
    assert (reference is not None) == bool(FIRST[full.name])
    if reference is not None:
        start = checkpoint(full.base, [full.before], "merge").state_dict()
        found = full.trainer.accelerator.unwrap_model(reference).state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in start.items())


def test_every_weight_is_trained(full: Full) -> None:
    assert all(parameter.requires_grad for parameter in full.trainer.model.parameters())
    if full.name == "grpo":  # whose rewards are all 0 on an untrained model
        return
    start = checkpoint(full.base, [full.before], "merge").state_dict()
    assert all(not torch.equal(weight, start[name]) for name, weight in full.weights().items())


def test_the_model_left_is_the_trained_one(full: Full) -> None:
    left = checkpoint(full.base, [full.before, full.run.left], "merge")
    assert relative_rms(logits(left), logits(full.trainer.model)) == 0.0
    assert {weight.dtype for weight in full.weights().values()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in left.parameters())
    assert not left.training


def test_the_start_that_was_saved_for_the_reference_is_gone(full: Full) -> None:
    assert not (full.scratch / "start").exists()


def test_tied_weights_are_written_once_and_tied_again(full: Full) -> None:
    with safe_open(full.run.left.folder / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(full.run.left.folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_folder_can_be_used_on_its_own(full: Full) -> None:
    folder = full.run.left.folder
    assert not [path for path in folder.iterdir() if path.suffix not in (".json", ".safetensors", ".jinja")]
    tokenizer, own = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(full.base)
    chat = [{"role": "user", "content": "copy: a b"}]
    assert tokenizer.apply_chat_template(chat) == own.apply_chat_template(chat)
    card, base = (json.loads((path / "config.json").read_text()) for path in (folder, full.base))
    assert card["use_cache"] == base["use_cache"] is True  # a Trainer turns it off
    assert {name: card[name] for name in base} == base
    generation = GenerationConfig.from_pretrained(folder)
    assert generation.eos_token_id == GenerationConfig.from_pretrained(full.base).eos_token_id


def test_models_are_kept_inside_a_stage_too(full: Full) -> None:
    stage = full.run.left.folder.parent
    assert kept_steps(stage) == [2]
    kept = stage / "checkpoints" / "step-000002"
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {
        path.name: path.read_bytes() for path in full.run.left.folder.iterdir()
    }


def test_the_next_stage_starts_from_the_full_model(full: Full, tmp_path: Path) -> None:
    run = run_stage(full.base, tmp_path / "next", "dpo", left=[full.before, full.run.left], max_steps=1)
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert run.hand_over.continuity == 0.0


@pytest.mark.slow
def test_after_a_full_stage_continue_starts_a_fresh_adapter_and_then_goes_on(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained
) -> None:
    full = full_stage(tiny_model_folder, tmp_path / "full", "sft", sft.run.left, hand_over="continue", max_steps=1)
    left = [sft.run.left, full.run.left]
    trained = []
    for name in ("one", "two"):
        run = run_stage(tiny_model_folder, tmp_path / name, left=left, hand_over="continue", max_steps=1)
        left.append(run.left)
        trained.append(run.hand_over.trained)
    assert trained == ["fresh", "continued"]


@pytest.mark.slow
def test_untied_heads_are_trained_and_saved(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "untied"
    model = load(tiny_model_folder)
    config = model.config
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(base)
    run = run_stage(base, tmp_path / "model", "dpo", adapter=None, learning_rate=RATE)
    weights, start = load_file(run.left.folder / "model.safetensors"), load(base).state_dict()
    assert set(weights) == set(start)
    assert not torch.equal(weights["lm_head.weight"], start["lm_head.weight"])


def test_a_base_kept_in_16_bits_is_trained_and_saved_in_float32(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "half"
    load(tiny_model_folder).bfloat16().save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(base)
    run = run_stage(base, tmp_path / "model", "dpo", adapter=None, learning_rate=1e-6)
    weights, start = load_file(run.left.folder / "model.safetensors"), load(base).state_dict()
    assert run.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    moved = [(weight - start[name]).abs().max() for name, weight in weights.items()]
    assert all(0 < step < 1e-5 for step in moved)  # a step that bfloat16 would have lost
    assert any(not torch.equal(weight.bfloat16().float(), weight) for weight in weights.values())


@pytest.mark.slow
def test_a_second_run_writes_the_same_bytes(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    one, two = (
        {path.name: path.read_bytes() for path in run.left.folder.iterdir()}
        for name in ("one", "two")
        for run in [full_stage(tiny_model_folder, tmp_path / name, "dpo", sft.run.left, max_steps=1).run]
    )
    assert one == two


@pytest.mark.parametrize("trainer", [name for name in EACH if FIRST[name.values[0]]])
def test_a_reference_loaded_from_the_old_weights_stops_the_stage(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained, trainer: str
) -> None:
    """What TRL does with a model merged in memory: it loads the path that the model still names."""
    kind = Renamed(**{**vars(TRAINERS[trainer]), "path": str(tiny_model_folder)})
    with pytest.raises(NodeFailed, match="the reference model is not the stage's start: its logits are"):
        full_stage(tiny_model_folder, tmp_path / "model", trainer, sft.run.left, kind=kind)
    assert not (tmp_path / "model").exists()


@dataclass(frozen=True)
class Renamed(Opened):
    """A kind whose model names another path than its own."""

    path: str = ""

    def trainer_class(self) -> Any:
        build = super().trainer_class()

        def renamed(*, model: Any, **settings: Any) -> Any:
            model.config._name_or_path = self.path
            return build(model=model, **settings)

        return renamed
