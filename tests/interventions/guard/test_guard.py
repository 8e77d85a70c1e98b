"""GeometryGuard in TRL's trainers: silent it leaves no trace, outside it acts, resumed it is as if never broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from limberlm.errors import UserError
from limberlm.interventions.guard.guard import GeometryGuard
from limberlm.interventions.seats.activations import ActivationPenalty
from limberlm.interventions.seats.tokens import Batch
from tests.observe.training.test_callback_trainers import CLOCK, KINDS, PROBE, lora, trainer

COLLAPSING = {"learning_rate": 0.1, "lr_scheduler_type": "constant"}
"""Under these settings the tiny model's effective rank falls by 4 % and more at the first step, in every trainer."""
FAST = {"gradient_accumulation_steps": 1, "gradient_checkpointing": False}


class Pull(ActivationPenalty):
    """Mean squared length of the states: something that changes what is trained."""

    name = "pull"
    calls = 0

    def penalty(self, states: torch.Tensor, batch: Batch, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        return states.square().sum(1).mean(), 2 * states / len(states)


class At(TrainerCallback):
    """Does something at the end of a step, before the guard measures."""

    def __init__(self, step: int, do: Any) -> None:
        self.step, self.do = step, do

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.do(control)


def guard(**settings: Any) -> GeometryGuard:
    told = {"every": 1, "max_tokens": 2048, "weight": 0.1, **settings}
    return GeometryGuard(PROBE, **({} if "on_breach" in told else {"regularizer": Pull()}), **told)


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def own_rows(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's own log, without what the clock decides."""
    own = [entry for entry in log if not any(key.startswith("limber/") for key in entry)]
    return [{key: value for key, value in entry.items() if not key.endswith(CLOCK)} for entry in own]


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "sft" else pytest.mark.slow) for k in KINDS])
def test_a_stage_that_stays_inside_is_the_same_to_the_bit(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    ends = []
    for callbacks in ([guard(margin=0.9)], []):
        made = trainer(kind, tiny_model_folder, tmp_path / str(len(callbacks)), *callbacks, adapter=lora())
        made.train()
        ends.append((weights(made), torch.get_rng_state(), hooks(made.model), own_rows(made.state.log_history)))
        if callbacks:
            assert list(callbacks[0].table["state"]) == ["inside"] * 3
            assert set(callbacks[0].table["weight"]) == {0.0}
            assert callbacks[0].regularizer.calls == 0
    (with_guard, random, *rest), (without, other_random, *other_rest) = ends
    assert same(with_guard, without)
    assert torch.equal(random, other_random)
    assert rest == other_rest


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "dpo" else pytest.mark.slow) for k in KINDS])
def test_a_stage_that_leaves_has_the_weight_raised_and_ends_elsewhere(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    ends = []
    for watching in (guard(margin=0.01, largest_weight=0.4), guard(margin=0.01, on_breach="warn")):
        out = tmp_path / str(len(ends))
        made = trainer(kind, tiny_model_folder, out, watching, adapter=lora(), **FAST, **COLLAPSING)
        made.train()
        ends.append((weights(made), watching.table, made.state.log_history))
    (guarded, table, log), (free, warned, _) = ends
    assert list(table["state"]) == list(warned["state"]) == ["outside"] * 3
    assert list(table["weight"]) == [0.1, 0.4, 0.4]
    assert table["change"][0] == warned["change"][0]  # nothing was done before the first measurement
    assert table["change"][2] != warned["change"][2]
    assert not same(guarded, free)
    logged = [entry for entry in log if "limber/guard/weight" in entry]
    assert [(entry["step"], entry["limber/guard/weight"]) for entry in logged] == [(1, 0.1), (2, 0.4), (3, 0.4)]
    assert [entry["limber/guard/outside"] for entry in logged] == [1.0] * 3
    changes = [entry for entry in log if "limber/guard/effective_rank_change" in entry]
    assert [entry["limber/guard/effective_rank_change_low"] for entry in changes] == list(table["low"])
    assert any("limber/pull_share" in entry for entry in log)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "kto" else pytest.mark.slow) for k in KINDS])
def test_it_stops_a_stage_once_patience_is_out(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    watching = guard(margin=0.01, on_breach="stop", patience=2)
    made = trainer(kind, tiny_model_folder, tmp_path, watching, adapter=lora(), **FAST, **COLLAPSING, max_steps=5)
    made.train()
    assert made.state.global_step == 2
    assert list(watching.table["step"]) == [1, 2]
    assert list(watching.table["state"]) == ["outside"] * 2


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "grpo" else pytest.mark.slow) for k in KINDS])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    settings = {"adapter": lora(), "save_strategy": "steps", "save_steps": 1, "max_steps": 4, **FAST, **COLLAPSING}
    whole = trainer(kind, tiny_model_folder, tmp_path, guard(margin=0.01, every=2, largest_weight=2.0), **settings)
    whole.train()
    record = (tmp_path / "limber-guard.json").read_bytes()
    for step in (1, 2, 3):
        again = trainer(kind, tiny_model_folder, tmp_path, guard(margin=0.01, every=2, largest_weight=2.0), **settings)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert same(weights(again), weights(whole)), step
        assert (tmp_path / "limber-guard.json").read_bytes() == record
    assert [one["weight"] for one in json.loads(record)["seen"]] == [0.1, 0.4]


def test_a_resumed_run_without_its_record_or_under_other_settings_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    def run(resume: bool, **settings: Any) -> None:
        saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "adapter": lora(), **FAST}
        made = trainer("sft", tiny_model_folder, tmp_path, guard(margin=0.5, **settings), **saving)
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1") if resume else None)

    run(False)
    with pytest.raises(UserError, match=r"limber-guard\.json: written with patience=1, now it is 2; resume"):
        run(True, patience=2)
    path = tmp_path / "limber-guard.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "seen": []}))
    with pytest.raises(UserError, match=r"limber-guard\.json: lacks step 1, and training resumes at step 1"):
        run(True)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"limber-guard\.json: cannot be read \(KeyError: 'settings'\); train"):
        run(True)
    path.unlink()
    with pytest.raises(UserError, match=r"limber-guard\.json: no such file, and training resumes at step 1"):
        run(True)


@pytest.mark.parametrize(("release", "wanted"), [(0.5, [0.8, 0.2, 0.0]), (0.001, [0.8, 0.8, 0.8])])
def test_the_weight_is_lowered_only_well_inside(
    tiny_model_folder: Path, tmp_path: Path, release: float, wanted: list[float]
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "adapter": lora(), **FAST}
    trainer("sft", tiny_model_folder, tmp_path, guard(margin=0.9, release=release), **saving).train()
    path = tmp_path / "limber-guard.json"
    content = json.loads(path.read_text())
    content["seen"][1]["weight"] = 0.8  # as if it had been outside so far
    path.write_text(json.dumps(content))
    watching = guard(margin=0.9, release=release)
    trainer("sft", tiny_model_folder, tmp_path, watching, **saving).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert list(watching.table["state"]) == ["inside"] * 4
    assert list(watching.table["weight"]) == [0.0, *wanted]
    assert watching.regularizer.calls == 2  # one site, in each of the two steps that began with a weight


@pytest.mark.parametrize("step", [1, 2])
def test_an_exception_leaves_nothing_once_detached_and_another_run_can_begin(
    tiny_model_folder: Path, tmp_path: Path, step: int
) -> None:
    def fail(control: Any) -> None:
        raise RuntimeError("on purpose")

    watching = guard(margin=0.01)
    plain = trainer("sft", tiny_model_folder, tmp_path / "plain", adapter=lora(), **FAST)
    before = hooks(plain.model)
    failing = At(step, fail)
    made = trainer("sft", tiny_model_folder, tmp_path, failing, watching, adapter=lora(), **FAST, **COLLAPSING)
    with pytest.raises(RuntimeError, match="on purpose"):
        made.train()
    ids = torch.arange(5, 25)[None]
    made.model.eval()
    with torch.no_grad():
        armed = made.model(ids).logits
    watching.detach()
    watching.detach()
    assert hooks(made.model) == before
    with torch.no_grad():
        assert torch.equal(made.model(ids).logits, armed)
    made.remove_callback(failing)
    made.train()
    assert hooks(made.model) == before
    assert list(watching.table["step"]) == [1, 2, 3]


def test_what_something_else_stopped_is_measured_at_its_end(tiny_model_folder: Path, tmp_path: Path) -> None:
    def stop(control: Any) -> None:
        control.should_training_stop = True

    watching = guard(margin=0.9, every=2)
    trainer("sft", tiny_model_folder, tmp_path, watching, At(3, stop), adapter=lora(), **FAST, max_steps=6).train()
    assert list(watching.table["step"]) == [2, 3]
    assert json.loads((tmp_path / "limber-guard.json").read_text())["seen"][1]["step"] == 3


def test_a_probe_too_small_for_the_margin_says_what_it_could_find(
    tiny_model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watching = guard(margin=1e-4)
    trainer("sft", tiny_model_folder, tmp_path, watching, adapter=lora(), **FAST, learning_rate=1e-3).train()
    unclear = watching.table[watching.table["state"] == "cannot tell"]
    assert len(unclear)
    assert set(watching.table["weight"]) == {0.0}
    assert "this probe cannot tell; the least it would find is" in caplog.text
    assert f"{100 * (unclear['detectable'].iloc[0] - 1):+.1f} %" in caplog.text


def test_wrong_settings_are_told_in_a_line() -> None:
    for settings, said in (
        ({"margin": -0.1}, "guard: margin: .*greater than 0"),
        ({"margin": float("nan")}, "guard: margin: "),
        ({"factor": 1.0}, "guard: factor: .*greater than 1"),
        ({"every": 0}, "guard: every: "),
        ({"start_weight": -1.0}, "guard: start_weight: "),
        ({"weight": 2.0, "largest_weight": 1.0}, "guard: .*weight: 2 is above largest_weight: 1"),
        ({"hold_with": {"weight": 1.0}}, "guard: .*hold_with: weight is the guard's to set"),
        ({"metric": "efective_rank"}, "guard: metric: .*nearest: effective_rank"),
        ({"metric": "cka"}, "guard: metric: cka has no harmful side"),
        ({"site": "block.x"}, 'guard: sites: "block.x" is not one'),
        ({"hold_with": {"tokenz": "all"}}, "guard: anchor: tokenz: "),
        (
            {"hold_by": "diversity", "hold_with": {"reference": "start"}},
            "guard: .*give reference=live, or a start",
        ),
        ({"on_breach": "panic"}, "guard: on_breach: "),
        ({"margins": 0.1}, "guard: margins: "),
    ):
        with pytest.raises(UserError, match=said):
            guard(**settings)


def test_a_regularizer_whose_size_is_not_the_guards_to_set_is_refused() -> None:
    with pytest.raises(UserError, match="guard: regularizer: pull has a share"):
        GeometryGuard(PROBE, regularizer=Pull(share=0.1))


@pytest.mark.parametrize("hold_by", ["anchor", pytest.param("diversity", marks=pytest.mark.slow)])
def test_by_default_it_holds_with_the_features_of_the_start(
    tiny_model_folder: Path, tmp_path: Path, hold_by: str
) -> None:
    told = {"every": 1, "max_tokens": 2048, "margin": 0.01, "weight": 64.0, "factor": 16.0}
    ends = []
    for watching in (GeometryGuard(PROBE, hold_by=hold_by, **told), GeometryGuard(PROBE, on_breach="warn", **told)):
        made = trainer("sft", tiny_model_folder, tmp_path, watching, adapter=lora(), **FAST, **COLLAPSING, max_steps=4)
        made.train()
        assert any(f"limber/{hold_by}_share" in entry for entry in made.state.log_history) == (not ends)
        ends.append(watching.table)
    held, free = ends
    assert list(held["weight"]) == [64.0, 1024.0, 1024.0, 1024.0]
    assert held["change"].iloc[-1] > free["change"].iloc[-1]
    assert free["state"].iloc[-1] == "outside"


def test_what_cannot_be_measured_is_refused_before_the_first_step(tiny_model_folder: Path, tmp_path: Path) -> None:
    few = GeometryGuard([{"text": "One tide."}, {"text": "Two tides."}], regularizer=Pull())
    for watching, said in (
        (few, "guard: effective_rank has no interval on this probe"),
        (guard(site="block.7"), "block"),
        (guard(metric="homogeneity_between", on_breach="warn", margin=1e9, kind="absolute"), None),
    ):
        made = trainer("sft", tiny_model_folder, tmp_path, watching, adapter=lora(), **FAST, max_steps=1)
        if said is None:
            made.train()
            continue
        with pytest.raises(UserError, match=said):
            made.train()
        assert made.state.global_step == 0


def test_a_second_guard_of_a_trainer_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, guard(), guard(), adapter=lora(), **FAST)
    with pytest.raises(UserError, match="guard: two of them"):
        made.train()
