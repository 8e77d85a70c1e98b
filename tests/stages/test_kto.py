"""Kahneman-Tversky optimization by TRL's trainer: it starts from its reference and sees rows as they were read."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from limberlm.errors import NodeFailed
from limberlm.stages import TRAINERS, load_stage_data
from limberlm.stages.kind import TrainerKind
from limberlm.stages.kto import KTO
from limberlm.stages.settings.arguments import trainer_config
from tests.stages.conftest import Trained
from tests.stages.runs import Opened, load, run_stage


def expected(**args: Any) -> dict[str, float]:
    return dict(KTO.first_step(trainer_config(KTO, args, where="x", seed=0, scratch=Path("scratch"))))


def brute(wanted: bool, weight: float, policy: float = -20.0, divergence: float = 0.0, beta: float = 0.1) -> float:
    """The loss of one row (2402.01306, section 4.2, eqns 7 and 8) whose policy and reference agree."""
    reference = policy
    margin = (policy - reference) - divergence
    return weight * (1 - 1 / (1 + math.exp(-beta * (margin if wanted else -margin))))


def test_kto_is_one_of_the_trainers() -> None:
    assert TRAINERS["kto"] is KTO


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("weight", [0.5, 1.0, 1.33])
def test_the_first_loss_is_half_the_weight_whatever_the_rows_are(weight: float, beta: float) -> None:
    weights = {"desirable_weight": weight, "undesirable_weight": weight}
    for wanted in (True, False):
        assert expected(beta=beta, **weights)["loss"] == pytest.approx(brute(wanted, weight, beta=beta), rel=1e-12)
    assert expected() == {"loss": 0.5, "kl": 0.0}
    assert expected(loss_type="apo_zero_unpaired")["loss"] == 0.5


def test_with_two_weights_the_first_loss_depends_on_the_batch_and_the_divergence_does_not() -> None:
    assert expected(desirable_weight=2.0) == {"kl": 0.0}


@pytest.mark.parametrize(
    "args",
    [
        {},
        pytest.param({"desirable_weight": 0.7, "undesirable_weight": 0.7}, marks=pytest.mark.slow),
        {"desirable_weight": 2.0},
        pytest.param({"loss_type": "apo_zero_unpaired", "beta": 0.5}, marks=pytest.mark.slow),
        pytest.param({"gradient_accumulation_steps": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_stage_after_a_merged_one_starts_at_its_reference(
    tiny_model_folder: Path, tmp_path: Path, sft: Trained, args: dict[str, Any]
) -> None:
    run = run_stage(tiny_model_folder, tmp_path / "adapter", "kto", adapters=[sft.adapter], **args)
    assert run.training["kl"].iloc[0] == 0.0
    if "loss" in expected(**args):
        assert run.first_loss == pytest.approx(expected(**args)["loss"], abs=1e-6)
    assert abs(run.training["loss"].iloc[-1] - run.first_loss) > 1e-6  # and then it moves


@dataclass(frozen=True)
class WrongReference(TrainerKind):
    """KTO whose reference is some other model than the stage's start."""

    reference: Any = None

    def trainer_class(self) -> Any:
        return functools.partial(super().trainer_class(), ref_model=self.reference)


def test_a_wrong_reference_stops_the_stage(tiny_model_folder: Path, tmp_path: Path, sft: Trained) -> None:
    wrong = WrongReference(**vars(KTO), reference=load(tiny_model_folder))
    with pytest.raises(NodeFailed, match="the reference model is not the stage's start"):
        run_stage(tiny_model_folder, tmp_path / "adapter", "kto", kind=wrong, adapters=[sft.adapter])
    assert not (tmp_path / "adapter").exists()


def parts(batch: Any, which: str, *, answers: bool) -> list[list[int]]:
    """The tokens of a batch's completions, or of its prompts."""
    rows = zip(*(batch[f"{which}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")), strict=True)
    return [ids[(real == 1) & (said == answers)].tolist() for ids, real, said in rows]


def test_rows_reach_the_trainer_in_the_order_in_which_they_were_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    kind = Opened.of(KTO)
    run_stage(tiny_model_folder, tmp_path / "adapter", "kto", kind=kind, rows=24)
    rows = load_stage_data("testbed:preferences", "kto", seed=0, rows=24).train
    batches = list(kind.trainers[0].get_train_dataloader())
    assert [bool(label) for batch in batches for label in batch["label"]] == [row["label"] for row in rows]
    for batch in batches:  # the divergence is estimated on each prompt with its neighbour's completion
        assert len(batch["label"]) == 4
        said, other = parts(batch, "", answers=True), parts(batch, "KL_", answers=True)
        assert other == [said[-1], *said[:-1]]
        assert parts(batch, "", answers=False) == parts(batch, "KL_", answers=False)


def test_wanted_completions_become_likelier_and_unwanted_ones_less_likely(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"word {i}\n", "completion": answer, "label": answer == "yes"}
        for i in range(32)
        for answer in ("yes", "no")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = run_stage(
        tiny_model_folder,
        tmp_path / "adapter",
        "kto",
        data=str(tmp_path / "rows.jsonl"),
        max_steps=12,
        per_device_train_batch_size=8,
    )
    assert run.training["rewards/chosen"].iloc[-1] > 0.1
    assert run.training["rewards/rejected"].iloc[-1] < -0.1
    assert run.training["loss"].iloc[-1] < 0.49


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["dpo", "kto"])
def test_a_reference_computed_in_advance_is_the_same_reference(
    tiny_model_folder: Path, tmp_path: Path, trainer: str, sft: Trained
) -> None:
    losses = [
        run_stage(
            tiny_model_folder,
            tmp_path / str(ahead),
            trainer,
            adapters=[sft.adapter],
            max_steps=3,
            precompute_ref_log_probs=ahead,
        ).training["loss"]
        for ahead in (False, True)
    ]
    assert losses[0].tolist() == pytest.approx(losses[1].tolist(), abs=1e-5)


def test_noise_on_the_embeddings_would_hide_the_reference(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Why `neftune_noise_alpha` is refused with a reference."""
    open_kind = replace(KTO, contradiction=lambda config: None)
    with pytest.raises(NodeFailed, match="the reference model is not the stage's start"):
        run_stage(tiny_model_folder, tmp_path / "adapter", "kto", kind=open_kind, neftune_noise_alpha=5.0)
