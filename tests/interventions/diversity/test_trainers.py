"""DiversityRegularizer in TRL's trainers: its gradient is autograd's, and it acts in training alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from limberlm.interventions.diversity.regularizer import DiversityRegularizer
from tests.interventions.diversity.autograd import plain_anchored, with_penalty
from tests.interventions.diversity.runs import ACTIVE, SITES, Counted, Evaluates, Gradients, exact, flat, same
from tests.observe.training.test_callback_trainers import KINDS, lora, trainer

WINDOWS: dict[str, Any] = {"gradient_accumulation_steps": 3, "max_steps": 3, "learning_rate": 1e-3, "max_grad_norm": 0}


@pytest.mark.parametrize(
    ("kind", "adapted", "tokens", "more"),
    [
        ("sft", False, "completion", {}),
        ("sft", True, "all", {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}),
        ("dpo", True, "all", {}),
        ("kto", True, "completion", {}),
        ("grpo", True, "all", {"max_completion_length": 12}),
    ],
)
def test_a_step_has_the_gradient_of_the_loss_with_the_penalty_in_it(
    tiny_model_folder: Path, tmp_path: Path, kind: str, adapted: bool, tokens: str, more: dict[str, Any]
) -> None:
    gradients, values = {}, {}
    for case in ("without", "with", "autograd"):
        ours = Counted(weight=0.7, tokens=tokens, **ACTIVE)
        kept = Gradients()
        callbacks = [ours, kept] if case == "with" else [kept]
        model = exact(tiny_model_folder, adapted)
        made = trainer(kind, tiny_model_folder, tmp_path / case, *callbacks, model=model, **WINDOWS, **more)
        if case == "autograd":
            values[case] = with_penalty(made, kind, SITES, 0.7, lambda x: plain_anchored(x, 40.0), tokens)
        made.train()
        gradients[case] = kept.steps
        if case == "with":
            values[case] = [value for _, _, value in ours.seen]
    assert len(set(map(len, gradients.values()))) == 1
    # backward meets the sites from the last to the first
    assert values["autograd"][0::2] == pytest.approx(values["with"][1::2], rel=1e-5)
    assert values["autograd"][1::2] == pytest.approx(values["with"][0::2], rel=1e-5)
    for found, wanted, task in zip(gradients["with"], gradients["autograd"], gradients["without"], strict=True):
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()
        assert (wanted - task).norm() > 1e-2 * task.norm()


def slow(*kinds: str) -> list[Any]:
    """Cases for which another one stands in the fast suite."""
    return [pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", ["sft", *slow("dpo", "kto", "grpo")])
def test_it_acts_once_for_each_micro_batch_and_site_whatever_is_recomputed(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    seen, weights = {}, {}
    for name, checkpointing in (
        ("off", {"gradient_checkpointing": False}),
        ("on", {"gradient_checkpointing_kwargs": {"use_reentrant": False}}),
        ("re-entrant", {"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    ):
        ours = Counted(weight=1.0, tokens="all", **ACTIVE)
        model = exact(tiny_model_folder, True)
        made = trainer(kind, tiny_model_folder, tmp_path / name, ours, Evaluates(), model=model, **checkpointing)
        made.eval_dataset = made.train_dataset
        made.train()
        seen[name], weights[name] = ours.seen, flat(made.model)
    assert [site for site, _, _ in seen["off"]] == ["block.1", "block.0"] * 6  # 3 steps of 2 micro-batches
    for name in ("on", "re-entrant"):
        assert seen[name] == seen["off"]
        assert same(weights[name], weights["off"])


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": 100.0, "reference": 1.0}, {"weight": 100.0}])
def test_no_weight_a_low_reference_and_its_taking_change_no_bit(
    tiny_model_folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    ends = []
    for callbacks in ([], [DiversityRegularizer(sites=SITES, **settings)]):
        made = trainer("sft", tiny_model_folder, tmp_path / str(len(callbacks)), *callbacks, adapter=lora())
        made.train()
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in made.model.modules()]
        ends.append((flat(made.model), torch.get_rng_state(), hooks))
    assert same(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


# --- what it is for


@pytest.mark.parametrize("kind", ["participation_ratio", *slow("cosine", "cosine_squared", "vcreg", "logdet")])
def test_the_penalty_falls_and_more_with_more_weight(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    ends = []
    for weight in (1e-12, 3.0, 30.0):
        ours = Counted(weight=weight, kind=kind, sites=SITES, tokens="all")
        trainer("sft", tiny_model_folder, tmp_path / str(weight), ours, adapter=lora(), max_steps=12).train()
        last = [value for _, _, value in ours.seen[-16:]]
        ends.append(sum(last) / len(last))
    assert ends == sorted(ends, reverse=True)
    assert ends[2] < ends[0] - 0.02 * abs(ends[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_is_kept_in_bfloat16_too(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    ours = DiversityRegularizer(share=0.05, sites=SITES, kind="participation_ratio", tokens="all")
    made = trainer(kind, tiny_model_folder, tmp_path, ours, adapter=lora(), bf16=True)
    made.train()
    entries = [entry for entry in made.state.log_history if "limber/diversity" in entry]
    assert len(entries) == 3
    for entry in entries:
        assert entry["limber/diversity_share"] == pytest.approx(0.05, rel=1e-4)
        assert 0 < entry["limber/diversity"] < 1
        assert entry["limber/diversity_skipped"] == 0
    assert all(value.isfinite().all() for value in made.model.state_dict().values())
