"""FeatureRefresh in TRL's trainers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback

from limberlm.errors import NodeFailed, UserError
from limberlm.interventions.refresh.refresh import FeatureRefresh, RefreshSettings
from tests.interventions.refresh.runs import KINDS, STEPS, TEXTS, load, logits, lora, same, trained, trainer

PHASE: dict[str, Any] = {"texts": TEXTS, "steps": 2, "rows": 4, "length": 24}


def refreshes(when: str) -> dict[str, FeatureRefresh]:
    return {
        "anchor": FeatureRefresh("anchor", when, **PHASE),
        "shrink": FeatureRefresh("shrink", when, rho=0.3, noise=0.1),
        "intruders": FeatureRefresh("spectral", when, threshold=0.99, kappa=0.5),
        "directions": FeatureRefresh("spectral", when, repair="directions"),
    }


def logged(made: Any) -> list[dict[str, float]]:
    return [entry for entry in made.state.log_history if any(key.startswith("limber/refresh") for key in entry)]


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_end_the_update_is_scaled_and_what_is_saved_is_what_was_trained(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    ends = []
    for callbacks in ([], [FeatureRefresh("shrink", rho=0.3)]):
        made = trainer(kind, tiny_model_folder, tmp_path, *callbacks)
        made.train()
        ends.append((trained(made), torch.get_rng_state()))
    (plain, random), (shrunk, other_random) = ends
    assert torch.equal(random, other_random)
    for name, value in plain.items():
        assert torch.equal(shrunk[name], value * 0.7 if "lora_B" in name else value)
    made.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "saved")
    torch.testing.assert_close(logits(again), logits(made.model), rtol=0, atol=1e-6)
    assert {path.name for path in (tmp_path / "saved").iterdir()} >= {"adapter_config.json"}
    assert not any("ref" in name.split(".") for name in load_file(tmp_path / "saved" / "adapter_model.safetensors"))


@pytest.mark.parametrize("which", ["anchor", "intruders", "directions"])
def test_a_refreshed_adapter_loads_in_plain_peft(tiny_model_folder: Path, tmp_path: Path, which: str) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, refreshes("end")[which])
    made.train()
    made.save_model(str(tmp_path / "saved"))
    again = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "saved")
    torch.testing.assert_close(logits(again), logits(made.model), rtol=0, atol=1e-6)
    assert logged(made)[-1]["step"] == STEPS
    plain = trainer("sft", tiny_model_folder, tmp_path / "plain")
    plain.train()
    assert not same(trained(made), trained(plain))


@pytest.mark.parametrize("which", ["anchor", "shrink", "intruders", "directions"])
@pytest.mark.parametrize("kind", ["sft", pytest.param("dpo", marks=pytest.mark.slow)])
def test_a_resumed_run_does_not_repeat_a_refresh(
    tiny_model_folder: Path, tmp_path: Path, kind: str, which: str
) -> None:
    resumes(kind, tiny_model_folder, tmp_path, which)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kto", "grpo"])
def test_a_resumed_run_of_other_trainers_does_not_repeat_a_refresh(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    resumes(kind, tiny_model_folder, tmp_path, "shrink")


def resumes(kind: str, base: Path, out: Path, which: str) -> None:
    """The refresh falls on the checkpoint's step, so it must be in it, and not come again after it."""
    saving = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    whole = trainer(kind, base, out, refreshes("every:2")[which], **saving)
    whole.train()
    again = trainer(kind, base, out, refreshes("every:2")[which], **saving)
    again.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert same(trained(whole), trained(again))
    assert [entry["step"] for entry in logged(whole)] == [2, 4] == [entry["step"] for entry in logged(again)]
    assert logged(whole) == logged(again)


def test_a_run_that_was_stopped_after_its_last_checkpoint_is_refreshed_once(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer("sft", tiny_model_folder, tmp_path, FeatureRefresh("shrink", rho=0.3), **saving)
    whole.train()
    kept = load_file(tmp_path / f"checkpoint-{STEPS}" / "adapter_model.safetensors")
    again = trainer("sft", tiny_model_folder, tmp_path, FeatureRefresh("shrink", rho=0.3), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS}"))
    assert same(trained(whole), trained(again))
    for name, value in kept.items():
        now = trained(whole)[name.replace(".weight", ".default.weight")]
        assert torch.equal(now, value * 0.7 if "lora_B" in name else value)


@pytest.mark.slow
def test_full_weights_and_a_continued_adapter_are_refreshed_towards_their_start(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    before = load(tiny_model_folder).state_dict()
    ends = []
    for callbacks in ([], [FeatureRefresh("shrink", rho=0.25)]):
        made = trainer("sft", tiny_model_folder, tmp_path, *callbacks, adapter=None, learning_rate=1e-3)
        made.train()
        ends.append(trained(made))
    for name, value in ends[0].items():
        wanted = before[name] + 0.75 * (value - before[name])
        torch.testing.assert_close(ends[1][name], wanted, rtol=0, atol=1e-6)

    first = trainer("sft", tiny_model_folder, tmp_path)
    first.train()
    first.save_model(str(tmp_path / "first"))

    def go_on(*callbacks: FeatureRefresh) -> Any:
        model = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "first", is_trainable=True)
        made = trainer("dpo", tiny_model_folder, tmp_path, *callbacks, model=model, adapter=None)
        made.train()
        return made

    plain, shrunk = go_on(), go_on(FeatureRefresh("shrink", rho=0.25))
    left_out = logged(shrunk)[-1]["limber/refresh/left_out"]
    assert 0 < left_out < 0.5
    start = {name: value for name, value in trained(first).items()}

    def product(values: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        return values[name].double() @ values[name.replace("lora_B", "lora_A")].double()

    missing = size = 0.0
    for name in (name for name in start if "lora_B" in name):
        begun, learnt, now = (product(values, name) for values in (start, trained(plain), trained(shrunk)))
        wanted = begun + 0.75 * (learnt - begun)
        missing, size = missing + float((now - wanted).square().sum()), size + float(wanted.square().sum())
    assert (missing / size) ** 0.5 == pytest.approx(left_out, rel=1e-3)


@pytest.mark.parametrize(
    "nothing",
    [
        FeatureRefresh("shrink", "every:1", rho=0.0),
        FeatureRefresh("spectral", "every:1", kappa=1.0),
        FeatureRefresh("spectral", repair="directions", directions=0.0),
        FeatureRefresh("anchor", "every:1", steps=0),
        FeatureRefresh("anchor", share=0.0),
    ],
    ids=lambda each: f"{each.settings.kind}",
)
def test_a_refresh_that_changes_nothing_leaves_the_run_as_it_is(
    tiny_model_folder: Path, tmp_path: Path, nothing: FeatureRefresh
) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, nothing, save_strategy="steps", save_steps=2)
    made.train()
    plain = trainer("sft", tiny_model_folder, tmp_path / "plain")
    plain.train()
    assert same(trained(made), trained(plain))
    assert not logged(made)
    assert not (tmp_path / "limber-start.safetensors").exists()


def test_a_refresh_on_the_way_changes_nothing_but_weights_and_is_logged_beside_the_loss(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    seen: list[Any] = []

    class Watch(FeatureRefresh):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            model = kwargs["model"]

            def around() -> tuple[Any, ...]:
                hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
                flags = [module.training for module in model.modules()]
                grads = [(p.requires_grad, p.grad is None) for p in model.parameters()]
                moments = [v.clone() for s in kwargs["optimizer"].state.values() for v in s.values()]
                return hooks, flags, grads, torch.get_rng_state().tolist(), [m.sum().item() for m in moments]

            before = around()
            control = super().on_step_end(args, state, control, **kwargs)
            seen.append(before == around())
            return control

    made = trainer("sft", tiny_model_folder, tmp_path, Watch("anchor", "every:2", **PHASE))
    made.train()
    assert seen == [True] * STEPS
    assert [set(entry) - {"epoch", "step"} for entry in logged(made)] == [
        {"limber/refresh/loss", "limber/refresh/drift", "limber/refresh/tokens"}
    ] * 2
    assert [entry["step"] for entry in made.state.log_history if "loss" in entry] == [1, 2, 3, 4]


def test_a_share_counts_the_stage_s_steps(tiny_model_folder: Path, tmp_path: Path) -> None:
    for when, share, wanted in (("end", 0.5, 2), ("end", 0.01, 1), ("every:2", 1.0, 2)):
        callback = FeatureRefresh("anchor", when, texts=TEXTS, share=share, rows=2, length=16)
        made = trainer("sft", tiny_model_folder, tmp_path, callback)
        made.train()
        assert [entry["limber/refresh/tokens"] for entry in logged(made)] == [32.0 * wanted] * (
            1 if when == "end" else 2
        )


@pytest.mark.parametrize(
    "settings",
    [{"steps": 3}, {"kind": "shrink", "when": "every:5", "noise": 0.1}, {"kind": "spectral", "repair": "directions"}],
)
def test_settings_written_down_whole_are_the_same_again(settings: dict[str, Any]) -> None:
    given = RefreshSettings(**settings)
    assert FeatureRefresh(**given.model_dump(), texts=TEXTS).settings == given
    assert RefreshSettings.model_validate(given.model_dump(mode="json")) == given


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "shrink", "rho": -0.1}, r"refresh: rho: Input should be greater than or equal to 0 \(got -0.1\)"),
        ({"kind": "shrink", "rho": float("nan")}, "refresh: rho: Input should be a finite number"),
        ({"kind": "shrink", "kappa": 0.5}, 'refresh: kappa: belongs to kind "spectral", and kind is "shrink"; leave'),
        (
            {"kind": "shirnk"},
            r'refresh: kind: "shirnk" is none of anchor, shrink, spectral \(did you mean "shrink"\?\)',
        ),
        ({"kind": "spectral", "when": "every:0"}, "refresh: when: String should match pattern"),
        ({"kind": "spectral", "threshhold": 0.5}, r'refresh: threshhold: unknown setting \(did you mean "threshold"'),
        ({"kind": "anchor"}, 'refresh: texts: missing; kind="anchor" reads generic text, so give a list of it'),
        ({"steps": 2, "share": 0.01, "texts": TEXTS}, "refresh: steps: 2 and share: 0.01: give one of them"),
        ({"sites": (), "texts": TEXTS}, "refresh: sites: empty; name at least one"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        FeatureRefresh(**settings)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_refreshed_is_refused_when_training_begins(tiny_model_folder: Path, tmp_path: Path) -> None:
    def begin(callback: FeatureRefresh, *more: FeatureRefresh, **settings: Any) -> None:
        trainer("sft", tiny_model_folder, tmp_path, callback, *more, **settings).train()

    with pytest.raises(UserError, match=r"refresh: sites: block\.9 is none of this model's"):
        begin(FeatureRefresh(texts=TEXTS, sites=("block.9",)))
    with pytest.raises(UserError, match=r"refresh: .*q_proj is adapted by .*Dora.*; use plain LoRA, or kind"):
        begin(FeatureRefresh("shrink"), adapter=lora(use_dora=True))
    with pytest.raises(UserError, match="refresh: two of them in this trainer's callbacks"):
        begin(FeatureRefresh("shrink"), FeatureRefresh("spectral"))


class Poison(TrainerCallback):
    """Makes the weights NaN at the last step."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == STEPS:
            with torch.no_grad():
                next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


@pytest.mark.parametrize("which", ["anchor", "shrink", "directions"])
def test_weights_that_are_not_finite_stop_the_stage(tiny_model_folder: Path, tmp_path: Path, which: str) -> None:
    made = trainer("sft", tiny_model_folder, tmp_path, Poison(), refreshes("end")[which])
    with pytest.raises(NodeFailed, match=r"refresh: .* after step 4: lower the learning rate") as raised:
        made.train()
    assert "\n" not in str(raised.value)


def test_a_copy_of_the_weights_elsewhere_and_weights_without_directions_are_refused(tiny_model_folder: Path) -> None:
    model = get_peft_model(load(tiny_model_folder), lora())
    state = SimpleNamespace(global_step=0)
    with pytest.raises(UserError, match="refresh: deepspeed holds a copy of the weights that would undo the refresh"):
        FeatureRefresh("shrink").on_train_begin(SimpleNamespace(deepspeed="zero.json"), state, None, model=model)
    layer = model.get_submodule("base_model.model.model.layers.1.mlp.up_proj").get_base_layer()
    layer.weight = torch.nn.Parameter(torch.zeros(64, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        UserError, match=r"refresh: .*up_proj adapts a weight of 2 dimensions and type torch.int8, .*use kind"
    ):
        FeatureRefresh("spectral").on_train_begin(SimpleNamespace(deepspeed=None), state, None, model=model)


def test_resuming_without_the_start_is_refused_naming_the_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    trainer("sft", tiny_model_folder, tmp_path, FeatureRefresh("shrink"), **saving).train()
    (tmp_path / "limber-start.safetensors").unlink()
    made = trainer("sft", tiny_model_folder, tmp_path, FeatureRefresh("shrink"), **saving)
    with pytest.raises(UserError, match=r"limber-start.safetensors: no such file, and training resumes at step 2"):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
