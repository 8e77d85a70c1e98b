"""UpdateDecorrelation in TRL's trainers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.decorrelation import UpdateDecorrelation
from limberlm.interventions.decorrelation.formulas import Terms, o_lora
from limberlm.observe.updates.adapters import Adapter
from tests.interventions.decorrelation.runs import ALL, Run, continued, dense_gradients, norm, same
from tests.observe.training.test_callback_trainers import load
from tests.stages.runs import lora as saved

FREE = {"max_grad_norm": 0.0}  # nothing is clipped or capped
STEPS = 3


@pytest.fixture(scope="module")
def past(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two earlier stages' adapters, of other ranks and scales."""
    folder = tmp_path_factory.mktemp("past")
    saved(tiny_model_folder, folder / "one", seed=1, r=2, lora_alpha=3)
    saved(tiny_model_folder, folder / "two", seed=2, r=6, lora_alpha=5, use_rslora=True)
    return [folder / "one", folder / "two"]


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto", "grpo"])
def test_what_is_added_to_the_gradient_is_the_penalty_s(
    tiny_model_folder: Path, tmp_path: Path, past: list[Path], kind: str
) -> None:
    callback = UpdateDecorrelation(past=past, weight=0.5, update=1.0, inputs=0.5, outputs=0.3)
    run = Run(kind, tiny_model_folder, tmp_path, callback, **FREE)
    assert len(run.added) == STEPS
    logged = run.logged("limber/decorrelation")
    for step, (parameters, added) in enumerate(zip(run.before.parameters, run.added, strict=True)):
        value, gradients = dense_gradients(parameters, past, ALL)
        assert logged[step] == pytest.approx(value, rel=1e-4)
        assert same(added, {name: 0.5 * each for name, each in gradients.items()}, 1e-4)
    assert value > 0
    assert not any(".ref." in name for name in added)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_continued_adapter_is_judged_by_what_the_stage_adds(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        saved(tiny_model_folder, folder, seed=seed, r=4, lora_alpha=8)
    callback = UpdateDecorrelation(past=folders, weight=0.5, continued=True)
    model = continued(tiny_model_folder, folders[-1])
    run = Run(kind, tiny_model_folder, tmp_path / "run", callback, model=model, **FREE)
    start = run.before.parameters[0]
    assert run.logged("limber/decorrelation")[0] < 1e-12
    for parameters, added in list(zip(run.before.parameters, run.added, strict=True))[1:]:
        value, gradients = dense_gradients(parameters, folders, Terms(1, 0, 0), start, held=True)
        assert value > 1e-6
        assert same(added, {name: 0.5 * each for name, each in gradients.items()}, 1e-3)


def test_o_lora_adds_the_released_loss(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    callback = UpdateDecorrelation(past=past, weight=0.5, kind="olora", norm=0.2)
    run = Run("sft", tiny_model_folder, tmp_path, callback, **FREE)
    rows = {}
    for adapter in map(Adapter.open, past):
        for module in adapter.lora:
            rows.setdefault(module, []).append(adapter.read(module).rows)
    for parameters, added in zip(run.before.parameters, run.added, strict=True):
        for name, gradient in added.items():
            wanted = 0.1 * parameters[name] / parameters[name].norm().clamp(min=1e-12)
            if "lora_A" in name:
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
                wanted = wanted + 0.5 * o_lora(parameters[name][None], torch.cat(rows[module])[None])[1][0]
            assert torch.allclose(gradient, wanted, atol=1e-5)


def test_the_updates_end_further_apart(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    ends = [
        Run(
            "sft", tiny_model_folder, tmp_path / str(weight), UpdateDecorrelation(past=past, weight=weight), max_steps=8
        )
        for weight in (1e-9, 30.0)
    ]
    for name in ("limber/decorrelation_cosine_squared", "limber/decorrelation_inputs"):
        without, held = (run.logged(name)[-1] for run in ends)
        assert held < without


# --- clipping


def test_the_trainer_clips_and_logs_the_task_s_gradient_alone_and_the_penalty_s_is_capped(
    tiny_model_folder: Path, tmp_path: Path, past: list[Path]
) -> None:
    plain = Run("sft", tiny_model_folder, tmp_path / "plain", None, max_grad_norm=0.1)
    callback = UpdateDecorrelation(past=past, weight=1e4, cap=0.5)
    run = Run("sft", tiny_model_folder, tmp_path / "held", callback, max_grad_norm=0.1)
    assert run.logged("grad_norm")[0] == plain.logged("grad_norm")[0]
    assert norm(run.before.gradients[0]) == pytest.approx(0.1, rel=1e-3)
    assert [norm(added) for added in run.added] == pytest.approx([0.05] * STEPS, rel=1e-4)
    assert run.logged("limber/decorrelation_capped") == [1.0] * STEPS
    light = Run("sft", tiny_model_folder, tmp_path / "light", UpdateDecorrelation(past=past, weight=1e-3))
    assert light.logged("limber/decorrelation_capped") == [0.0] * STEPS


def test_inside_the_clip_the_direction_is_the_same(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    def handed(inside: bool, clip: float) -> dict[str, torch.Tensor]:
        callback = UpdateDecorrelation(past=past, weight=3.0, inside_clip=inside)
        out = tmp_path / f"{inside}-{clip}"
        return Run("sft", tiny_model_folder, out, callback, max_steps=1, max_grad_norm=clip).after.gradients[0]

    free, inside, clipped = handed(False, 0.0), handed(True, 0.0), handed(True, 0.05)
    assert same(inside, free, 1e-5)
    assert norm(clipped) == pytest.approx(0.05, rel=1e-3)
    assert norm(free) > 0.1
    assert same({name: each * norm(free) / norm(clipped) for name, each in clipped.items()}, free, 1e-4)


def test_in_the_wrong_seat_it_would_do_nothing(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    class Late(UpdateDecorrelation):
        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            """Miss the step."""

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().on_pre_optimizer_step(*args, **kwargs)

    plain = Run("sft", tiny_model_folder, tmp_path / "plain", None)
    late = Run("sft", tiny_model_folder, tmp_path / "late", Late(past=past, weight=10.0))
    right = Run("sft", tiny_model_folder, tmp_path / "right", UpdateDecorrelation(past=past, weight=10.0))
    assert all(torch.equal(late.ends[name], plain.ends[name]) for name in plain.ends)
    assert not all(torch.equal(right.ends[name], plain.ends[name]) for name in plain.ends)


# --- what is warned of and refused


def overlap_before_training(base: Path, out: Path, past: Path, seed: int) -> float:
    callback = UpdateDecorrelation(past=[past], weight=1e-9)
    return Run("sft", base, out, callback, seed=seed, max_steps=1).logged("limber/decorrelation_inputs")[0]


def test_stages_with_one_seed_overlap_before_the_first_step_and_this_is_said(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Run("sft", tiny_model_folder, tmp_path / "first", None, max_steps=8, seed=5)
    first.trainer.save_model(str(tmp_path / "past"))
    with caplog.at_level(logging.WARNING):
        chance = overlap_before_training(tiny_model_folder, tmp_path / "other", tmp_path / "past", seed=6)
        assert not [each for each in caplog.records if "seed" in each.message]
        one_seed = overlap_before_training(tiny_model_folder, tmp_path / "same", tmp_path / "past", seed=5)
    assert chance == pytest.approx(4 / 32, abs=0.03)  # r/d_in of most modules here
    assert one_seed > 0.8
    (said,) = [each.message for each in caplog.records if "seed" in each.message]
    assert said.startswith("decorrelation: before the first step the input directions overlap by 0.")


def test_no_adapter_in_training_is_refused(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    with pytest.raises(UserError, match=r"^decorrelation: the trainer trains no LoRA adapter"):
        Run("sft", tiny_model_folder, tmp_path, UpdateDecorrelation(past=past), model=load(tiny_model_folder))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"inputs": 0.5}, "inputs: 0.5"), ({"kind": "olora"}, "kind: olora"), ({"update": 0, "outputs": 0}, "update: 0")],
)
def test_directions_are_refused_for_a_continued_adapter(
    tiny_model_folder: Path, tmp_path: Path, past: list[Path], settings: dict[str, Any], said: str
) -> None:
    callback = UpdateDecorrelation(past=past, **settings)
    with pytest.raises(UserError, match=rf"^decorrelation: {said}: the stage goes on training an adapter"):
        Run("sft", tiny_model_folder, tmp_path, callback, model=continued(tiny_model_folder, past[0]))


def test_a_penalty_that_is_not_finite_stops_the_run(tiny_model_folder: Path, tmp_path: Path, past: list[Path]) -> None:
    class Broken(UpdateDecorrelation):
        def gradients(self, parameters: Any) -> Any:
            value, gradients = super().gradients(parameters)
            return value * float("nan"), gradients

    with pytest.raises(NodeFailed, match=r"^decorrelation: the penalty is not finite at step 1"):
        Run("sft", tiny_model_folder, tmp_path, Broken(past=past))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1}, "weight: "),
        ({"weight": float("nan")}, "weight: "),
        ({"tau": 0}, "tau: "),
        ({"wieght": 1}, "wieght"),
        ({"norm": 0.1}, "norm: 0.1 means nothing with kind: overlap"),
        ({"kind": "olora", "inputs": 0.5}, "inputs: 0.5 means nothing with kind: olora"),
        ({"update": 0, "inputs": 0}, "update, inputs and outputs are all 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(past: list[Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        UpdateDecorrelation(past=past, **settings)
    assert str(refused.value).startswith("decorrelation: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_are_the_same_after_a_study_has_written_them_down(past: list[Path]) -> None:
    for given in ({"weight": 2.0}, {"kind": "olora"}, {"inputs": 0.0}):
        settings = UpdateDecorrelation(past=past, **given).settings
        assert type(settings).model_validate(settings.model_dump(mode="json")) == settings
