"""KLToBase in TRL's trainers: its gradient is that of the mean divergence, and but for that it leaves a run alone."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limberlm.errors import UserError
from limberlm.interventions.rivals.kl_to_base import KLToBase
from tests.interventions.held import (
    KINDS,
    first_gradients,
    load,
    logged,
    parameters,
    perturbed,
    same,
    start,
    states_at,
    without_dropout,
)
from tests.observe.training.test_callback_trainers import lora, trainer

SLOW = pytest.mark.slow
EACH = [pytest.param(kind, marks=[] if kind in ("sft", "grpo") else SLOW) for kind in KINDS]


def divergence(now: Tensor, then: Tensor, direction: str) -> Tensor:
    """Mean KL of logits [t, V], by torch's own."""
    p, p0 = now.log_softmax(-1), then.log_softmax(-1)
    one, other = (p, p0) if direction == "forward" else (p0, p)
    return torch.nn.functional.kl_div(one, other, log_target=True, reduction="none").sum(-1).mean()


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_gradient_is_that_of_the_mean_divergence(
    tiny_model_folder: Path, tmp_path: Path, kind: str, direction: str
) -> None:
    reference, weight = perturbed(tiny_model_folder), 3.0
    given = {"model": load(tiny_model_folder), "adapter": lora()}
    plain, _ = first_gradients(kind, tiny_model_folder, tmp_path, **given)
    penalty = KLToBase(weight=weight, reference=reference, rows=1, per_sequence=None, direction=direction)
    given = {"model": load(tiny_model_folder), "adapter": lora()}
    watch, model = first_gradients(kind, tiny_model_folder, tmp_path, penalty, **given)
    total = torch.zeros(())
    for batch in watch.batches[0]:
        read = torch.zeros_like(batch["labels"], dtype=torch.bool)
        read[:, :-1] = batch["labels"][:, 1:].ne(-100)
        states, before = (states_at(one, batch, ["final_norm"])[0][read] for one in (model, reference))
        now, then = states @ model.lm_head.weight.T, (before @ reference.lm_head.weight.T).detach()
        total = total + weight * divergence(now, then, direction) / 3
    total.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(wanted) == len(watch.gradients[0])
    for name, gradient in wanted.items():
        name = f"base_model.model.{name}"
        added = watch.gradients[0][name] - plain.gradients[0][name]
        assert float((added - gradient).norm()) <= 3e-5 * float(gradient.norm()) + 1e-7


@pytest.mark.parametrize("how", ["merge", "continue", "full"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_at_the_stages_start_it_says_and_does_nothing(
    tiny_model_folder: Path, tmp_path: Path, how: str, direction: str
) -> None:
    ends = []
    for callbacks in ([KLToBase(weight=1e3, rows=1, direction=direction)], []):
        given = without_dropout(start(tiny_model_folder, how))
        ends.append(first_gradients("sft", tiny_model_folder, tmp_path, *callbacks, **given)[0].gradients[0])
    assert same(*ends)


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("how", ["merge", "full"])
def test_the_divergence_falls_with_the_weight(tiny_model_folder: Path, tmp_path: Path, kind: str, how: str) -> None:
    """With full weights the head has moved too: the reference's logits are those of the head at the start."""
    ends = []
    for weight in (1e-6, 3.0):
        given = without_dropout(start(tiny_model_folder, how))
        settings = {"max_steps": 6, "learning_rate": 3e-3}
        made = trainer(kind, tiny_model_folder, tmp_path, KLToBase(weight=weight, rows=1), **given, **settings)
        made.train()
        found = logged(made, "limber/kl_to_base")
        assert found[0] < 1e-10
        ends.append(found[-1])
    assert ends[0] > 1.2 * ends[1] > 0


@pytest.mark.parametrize("kind", EACH)
def test_a_weight_too_small_to_matter_leaves_every_bit(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([KLToBase(weight=1e-30)], []):
        given = {"model": load(tiny_model_folder, dropout=0.1), "adapter": lora()}
        made = trainer(kind, tiny_model_folder, tmp_path, *callbacks, **given)
        made.train()
        ends.append((parameters(made), torch.get_rng_state()))
    assert same(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_a_head_that_is_trained_is_told(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trainer("sft", tiny_model_folder, tmp_path, KLToBase(), max_steps=1).train()
    assert "kl_to_base: the head is trained" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": -1.0}, "kl_to_base: weight: "),
        ({"weight": math.inf}, "kl_to_base: weight: "),
        ({"direction": "both"}, 'kl_to_base: direction: "both" is none of forward, reverse'),
        ({"sites": ["block.0"]}, "kl_to_base: sites.0: "),
        ({"per_sequence": 0}, "kl_to_base: per_sequence: "),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        KLToBase(**settings)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
