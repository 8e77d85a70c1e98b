"""FeatureAnchor in TRL's trainers: its gradient is that of its penalty, and but for that it leaves a run alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from limberlm.errors import UserError
from limberlm.interventions.anchors.anchor import FeatureAnchor
from limberlm.interventions.anchors.formulas import anchored
from tests.interventions.anchors.test_formulas import brute
from tests.interventions.held import (
    KINDS,
    first_gradients,
    inner,
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
EACH = [pytest.param(kind, marks=[] if kind == "sft" else SLOW) for kind in KINDS]
SITES = ["block.0", "block.1"]
STARTS = ["merge", "continue", "full"]


# --- the gradient


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("how", ["full", "merge"])
def test_the_gradient_is_that_of_the_mean_distance(
    tiny_model_folder: Path, tmp_path: Path, kind: str, how: str
) -> None:
    """Against autograd of weight * mean over micro-batches and sites of R, with another model as the reference."""
    reference, weight = perturbed(tiny_model_folder), 3.0
    plain, _ = first_gradients(kind, tiny_model_folder, tmp_path, **start(tiny_model_folder, how))
    anchor = FeatureAnchor(
        weight=weight, reference=reference, rows=1, per_sequence=None, tokens="completion", sites=SITES
    )
    watch, model = first_gradients(kind, tiny_model_folder, tmp_path, anchor, **start(tiny_model_folder, how))
    (batches,) = watch.batches
    assert len(batches) == 3
    total = torch.zeros(())
    for batch in batches:
        read = batch["labels"].ne(-100)
        read[:, 0] = False
        pairs = zip(states_at(model, batch, SITES), states_at(reference, batch, SITES), strict=True)
        total = total + weight * sum(brute(now[read], then[read].detach()) for now, then in pairs) / (2 * 3)
    total.backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    prefix = "base_model.model." if how == "merge" else ""
    assert wanted
    for name, gradient in wanted.items():
        added = watch.gradients[0][prefix + name] - plain.gradients[0][prefix + name]
        assert float((added - gradient).norm()) <= 2e-5 * float(gradient.norm() + 1e-3 * added.norm()) + 1e-7


# --- the start


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("how", STARTS)
def test_at_the_stages_start_it_says_and_does_nothing(
    tiny_model_folder: Path, tmp_path: Path, kind: str, how: str
) -> None:
    ends = []
    for callbacks in ([FeatureAnchor(weight=1e3, rows=1)], []):
        given = without_dropout(start(tiny_model_folder, how))
        ends.append(first_gradients(kind, tiny_model_folder, tmp_path, *callbacks, **given)[0].gradients[0])
    assert same(*ends)


@pytest.mark.parametrize("kind", EACH)
def test_the_distance_is_logged_and_is_zero_at_first(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    anchor = FeatureAnchor(weight=0.1, rows=1)
    made = trainer(kind, tiny_model_folder, tmp_path, anchor, **start(tiny_model_folder, "merge"))
    made.train()
    distances = logged(made, "limber/anchor")
    assert len(distances) == 3
    assert distances[0] < 1e-10
    assert 1e-6 < distances[-1] < 4
    assert all(0 <= share < math.inf for share in logged(made, "limber/anchor_share"))


# --- what it leaves alone


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.parametrize("how", ["merge", pytest.param("full", marks=SLOW)])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_weight_too_small_to_matter_leaves_every_bit(
    tiny_model_folder: Path, tmp_path: Path, kind: str, how: str, bf16: bool
) -> None:
    """Under dropout, in the adapter and in the attention: no random number is drawn. Autocast keeps no cast of ours."""
    ends = []
    for callbacks in ([FeatureAnchor(weight=1e-30)], []):
        given = start(tiny_model_folder, how) | {"model": load(tiny_model_folder, dropout=0.1)}
        made = trainer(kind, tiny_model_folder, tmp_path, *callbacks, **given, bf16=bf16)
        made.train()
        flags = [module.training for module in made.model.modules()]
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in made.model.modules()]
        ends.append((parameters(made), torch.get_rng_state(), flags, hooks))
    assert same(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2:] == ends[1][2:]


def test_weight_zero_registers_nothing(tiny_model_folder: Path, tmp_path: Path) -> None:
    anchor = FeatureAnchor(weight=0)
    made = trainer("sft", tiny_model_folder, tmp_path, anchor, adapter=lora())
    made.train()
    assert not logged(made, "limber/anchor")
    assert anchor.reference is None


@pytest.mark.parametrize("how", ["merge", "full"])
def test_the_reference_of_dpo_is_what_it_is_without_an_anchor(
    tiny_model_folder: Path, tmp_path: Path, how: str
) -> None:
    found = []
    for callbacks in ([FeatureAnchor(weight=10.0, rows=1)], []):
        made = trainer("dpo", tiny_model_folder, tmp_path, *callbacks, **start(tiny_model_folder, how))
        seen: list[torch.Tensor] = []

        def see(module: Any, args: Any, kwargs: Any, output: Any, seen: list[torch.Tensor] = seen) -> None:
            if not torch.is_grad_enabled():
                seen.append(output.log_probs.detach().clone())

        policy = made.model.get_base_model() if how == "merge" else made.ref_model
        policy.register_forward_hook(see, with_kwargs=True)
        made.train()
        found.append(seen)
    assert len(found[0]) == len(found[1]) == 6
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


# --- what it is for


@pytest.mark.parametrize(
    ("how", "rate"),
    [("merge", 1e-2), pytest.param("continue", 3e-3, marks=SLOW), pytest.param("full", 1e-3, marks=SLOW)],
)
def test_the_distance_from_the_start_falls_with_the_weight(
    tiny_model_folder: Path, tmp_path: Path, how: str, rate: float
) -> None:
    ids = torch.randint(5, 400, (8, 24), generator=torch.Generator().manual_seed(0))
    distances = []
    for weight in (0.0, 3.0, 30.0):
        made = trainer(
            "sft",
            tiny_model_folder,
            tmp_path,
            FeatureAnchor(weight=weight),
            **start(tiny_model_folder, how),
            max_steps=12,
            learning_rate=rate,
        )
        before = copy.deepcopy(made.model)
        made.train()
        with torch.no_grad():
            now, then = (states_at(inner(one), {"input_ids": ids}, ["block.0"])[0] for one in (made.model, before))
        distances.append(float(anchored(now.flatten(0, 1).double(), then.flatten(0, 1))[0]))
    assert distances[0] > 1.2 * distances[1] > 1.2 * 1.2 * distances[2] > 0, distances


# --- resuming


@SLOW
@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("how", ["merge", "full"])
def test_a_resumed_run_ends_with_the_same_weights(tiny_model_folder: Path, tmp_path: Path, kind: str, how: str) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer(
        kind, tiny_model_folder, tmp_path, FeatureAnchor(weight=5.0), **start(tiny_model_folder, how), **saving
    )
    whole.train()
    again = trainer(
        kind, tiny_model_folder, tmp_path, FeatureAnchor(weight=5.0), **start(tiny_model_folder, how), **saving
    )
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(parameters(whole), parameters(again))
    (tmp_path / "limber-start.safetensors").unlink()
    third = trainer(
        kind, tiny_model_folder, tmp_path, FeatureAnchor(weight=5.0), **start(tiny_model_folder, how), **saving
    )
    with pytest.raises(UserError, match=r"limber-start\.safetensors: no such file, and training resumes at step 2"):
        third.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


# --- refusals


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weight": -1.0}, "anchor: weight: "),
        ({"weight": math.nan}, "anchor: weight: "),
        ({"rows": 0.0}, "anchor: rows: "),
        ({"rows": 1.5}, "anchor: rows: "),
        ({"weight": 1.0, "share": 0.1}, "anchor: weight: 1 and share: 0.1: give one of them"),
        ({"sites": []}, "anchor: sites: empty; name at least one"),
        ({"beta": 1.0}, "anchor: beta: unknown setting"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        FeatureAnchor(**settings)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_site_that_is_not_there_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, FeatureAnchor(sites=["block.7"]), adapter=lora())
    with pytest.raises(UserError, match=r"anchor: sites: block\.7 is none of this model's"):
        made.train()
