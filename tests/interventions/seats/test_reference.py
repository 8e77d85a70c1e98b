"""What a reference says is what the model said when the stage began, whatever training has done since."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from limberlm.errors import UserError
from limberlm.interventions.anchors.anchor import AnchorSettings, FeatureAnchor
from limberlm.interventions.context import StageContext
from limberlm.interventions.rivals.kl_to_base import KLSettings, KLToBase
from limberlm.interventions.seats.reference import Reference, in_study
from limberlm.interventions.seats.start import StartParameters
from limberlm.interventions.seats.tokens import Batch, choose
from limberlm.observe.model.sites import locate
from tests.interventions.held import inner, load, parameters, perturbed, same, start, states_at, without_dropout
from tests.observe.tiny import tiny
from tests.observe.training.test_callback_trainers import lora, trainer

STARTS = ["merge", "continue", "full"]


def batch_of(rows: int = 3, length: int = 12, vocabulary: int = 90) -> Batch:
    ids = torch.randint(5, vocabulary, (rows, length), generator=torch.Generator().manual_seed(3))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    index, sequences = choose(inputs, "all", None, 0)
    return Batch(index, sequences, (rows, length), inputs, 0, 0, 0)


def held_to_its_start(model: torch.nn.Module) -> Reference:
    values = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return Reference(model, locate(model), StartParameters(values))


def move(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)


def of(states: Tensor, batch: Batch) -> Tensor:
    return states.flatten(0, 1)[batch.index]


@pytest.mark.parametrize("how", STARTS)
def test_its_states_are_those_of_the_start(tiny_model_folder: Path, tmp_path: Path, how: str) -> None:
    """After real training, against a copy taken before."""
    made = trainer("sft", tiny_model_folder, tmp_path, **start(tiny_model_folder, how))
    before, reference, batch = copy.deepcopy(inner(made.model)), held_to_its_start(made.model), batch_of()
    made.train()
    for sites in (["block.0"], ["block.0", "block.1"], ["block.0", "final_norm"]):
        found = reference.states(batch, sites)
        for name, states in zip(sites, states_at(before, dict(batch.inputs), sites), strict=True):
            torch.testing.assert_close(found[name], of(states, batch), atol=1e-6, rtol=1e-5)
        moved = states_at(inner(made.model), dict(batch.inputs), sites)
        assert float((of(moved[0], batch) - found[sites[0]]).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt2", "gpt_neox", "qwen2"])
def test_a_share_of_a_batch_is_read_as_in_the_whole(name: str) -> None:
    """Padded left or right, cut behind the last token that is read."""
    model = tiny(name)
    reference = held_to_its_start(model)
    for side in ("left", "right"):
        mask = torch.ones(4, 11, dtype=torch.long)
        mask[1, : 3 if side == "left" else 0] = 0
        mask[1, 11 if side == "left" else 7 :] = 0
        ids = torch.randint(5, 90, (4, 11), generator=torch.Generator().manual_seed(3))
        inputs = {"input_ids": ids, "attention_mask": mask}
        index, sequences = choose(inputs, "all", 3, 2)
        some = (sequences == 1) | (sequences == 2)
        batch = Batch(index[some], sequences[some], (4, 11), inputs, 0, 0, 0)
        found = reference.states(batch, ["block.1"])["block.1"]
        (whole,) = states_at(model, inputs, ["block.1"])
        torch.testing.assert_close(found, of(whole, batch), atol=1e-5, rtol=1e-4)


def test_packed_documents_are_read_as_in_their_row() -> None:
    model = tiny("llama").double()  # the row's own mask takes another kernel, which rounds otherwise
    positions = torch.cat([torch.arange(length) for length in (4, 6, 3, 5)])[None]
    ids = torch.randint(5, 90, (1, 18), generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": ids, "position_ids": positions}
    index, sequences = choose(inputs, "all", None, 0)
    some = (sequences == 1) | (sequences == 3)
    batch = Batch(index[some], sequences[some], (1, 18), inputs, 0, 0, 0)
    found = held_to_its_start(model).states(batch, ["block.2"])["block.2"]
    (whole,) = states_at(model, inputs, ["block.2"])
    torch.testing.assert_close(found, of(whole, batch))


def test_nothing_above_the_deepest_site_is_run() -> None:
    model, ran = tiny("llama"), []
    found = locate(model)
    parts = {f"block.{i}": block for i, block in enumerate(found.blocks)}
    for name, part in {**parts, "final_norm": found.final_norm, "head": model.lm_head}.items():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    held_to_its_start(model).states(batch_of(), ["block.1", "block.0"])
    assert ran == ["block.0", "block.1"]
    ran.clear()
    held_to_its_start(model).states(batch_of(), ["final_norm"])
    assert ran == ["block.0", "block.1", "block.2", "final_norm"]


def test_what_is_not_text_is_refused() -> None:
    batch = batch_of()
    seen = replace(batch, inputs={**batch.inputs, "pixel_values": torch.zeros(3, 3)})
    with pytest.raises(UserError, match="pixel_values: a reference reads text only"):
        held_to_its_start(tiny("llama")).states(seen, ["block.1"])


def everything(model: torch.nn.Module) -> list[Any]:
    return [
        [p.data_ptr() for p in model.parameters()],
        [module.training for module in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("other", [False, True])
def test_a_pass_leaves_everything_as_it_was_also_after_an_exception(other: bool) -> None:
    model = tiny("llama").train()
    model.model.layers[1].eval()  # a model may mix its modes
    reference = Reference(model, locate(model), None) if other else held_to_its_start(model)
    move(model)
    before = everything(model)
    reference.states(batch_of(), ["block.1"])
    assert everything(model) == before

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.model.layers[0].register_forward_hook(fail)
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        reference.states(batch_of(), ["block.1"])
    assert everything(model) == before
    handle.remove()


def test_autocast_keeps_no_cast_of_the_start() -> None:
    """Casts of weights are kept while autocast is on, and found by the parameter: the start's must not be."""
    model = tiny("llama").train()
    reference, batch = held_to_its_start(model), batch_of()
    move(model)
    ids = batch.inputs["input_ids"]

    def gradients(first: Any) -> list[Tensor]:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first()
            loss = model(ids, labels=ids).loss
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    alone = gradients(lambda: None)
    beside = gradients(lambda: reference.states(batch, ["block.1"]))
    assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_after_an_exception_in_the_middle_of_a_step_the_model_is_the_one_being_trained(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    penalty = FeatureAnchor(weight=1.0)
    given = without_dropout(start(tiny_model_folder, "merge"))
    made = trainer(kind, tiny_model_folder, tmp_path, penalty, **given)
    passes = []

    def fail(module: Any, args: Any, output: Any) -> None:
        if not module.training:
            passes.append(1)
            if len(passes) == 3:
                raise RuntimeError("no memory")

    handle = inner(made.model).model.layers[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        made.train()
    handle.remove()
    assert all(module.training for module in made.model.modules() if "ref" not in str(type(module)))
    assert any(bool(p.any()) for n, p in made.model.named_parameters() if "lora_B.default" in n)  # not the start
    penalty.detach()
    layers = locate(made.model).blocks
    assert not any(module._forward_hooks for module in layers)
    assert not inner(made.model)._forward_pre_hooks


# --- another model


@pytest.mark.parametrize("given", ["path", "model"])
def test_another_model_can_be_the_reference(tiny_model_folder: Path, tmp_path: Path, given: str) -> None:
    """In a merged chain: the chain's base, though the stage starts elsewhere."""
    base = load(tiny_model_folder)
    reference = str(tiny_model_folder) if given == "path" else base
    kept = {name: p.clone() for name, p in base.named_parameters()}
    model, batch = perturbed(tiny_model_folder).train(), batch_of()
    found = Reference.of(reference, model, None, None, "anchor").states(batch, ["block.0"])["block.0"]
    (expected,) = states_at(load(tiny_model_folder), dict(batch.inputs), ["block.0"])
    assert torch.equal(found, of(expected, batch))
    assert same(kept, dict(base.named_parameters()))
    assert all(p.requires_grad for p in base.parameters())


@pytest.mark.parametrize("penalty", [FeatureAnchor, KLToBase])
def test_a_stage_can_be_drawn_back_to_the_base_of_its_chain(
    tiny_model_folder: Path, tmp_path: Path, penalty: Any
) -> None:
    merged = perturbed(tiny_model_folder)
    held = penalty(weight=1.0, reference=str(tiny_model_folder), rows=1)
    made = trainer("sft", tiny_model_folder, tmp_path, held, model=merged, adapter=lora(), save_strategy="no")
    made.train()
    first = next(entry[f"limber/{held.name}"] for entry in made.state.log_history if f"limber/{held.name}" in entry)
    assert first > 1e-3
    assert not (tmp_path / "limber-start.safetensors").exists()
    assert parameters(made)


def test_references_that_cannot_be_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = load(tiny_model_folder)
    for given, said in (
        (tmp_path / "nowhere", r"nowhere: no such folder"),
        (model, r'anchor: reference: the model being trained; give reference="start" to hold it to its start'),
        (tiny("llama"), r"anchor: reference: hidden states of 40 where the trained model has 32"),
        (_with(model, num_hidden_layers=3), r"anchor: reference: blocks: 3 where the trained model has 2"),
        (_with(model, vocab_size=300, pad_token_id=0, eos_token_id=0), r"anchor: reference: a vocabulary of 300 where"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            Reference.of(given, model, None, None, "anchor")
        assert "\n" not in str(caught.value)


def _with(model: LlamaForCausalLM, **changes: Any) -> LlamaForCausalLM:
    config = copy.deepcopy(model.config)
    config.update(changes)
    config.layer_types = None
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("settings", [AnchorSettings, KLSettings])
def test_in_a_study_the_base_is_the_chains(settings: Any) -> None:
    context = StageContext(
        trainer="sft",
        seed=0,
        hand_over="merge",
        base="runs/base",
        earlier=[],
        tokenizer=None,
        texts=list,
        earlier_rows=list,
        out_of_domain=lambda: ([], []),
        probe=lambda: None,
    )
    for given, wanted in (("base", "runs/base"), ("start", "start")):
        assert in_study(settings(reference=given, weight=2.0), context)["reference"] == wanted
    assert in_study(settings(weight=2.0), context)["weight"] == 2
