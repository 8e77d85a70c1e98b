"""What every intervention does to a run, and what it must not do: rows 1, 3, 6, 9 and 13 of the reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.interventions.behaviour.cases import CASES, FIRST, PROBES, Case, at_once
from tests.interventions.behaviour.runs import (
    KINDS,
    RUNS,
    Look,
    Setup,
    fixtures,
    rows,
    run,
    same_bits,
    spied,
    student,
    train,
    trainer,
)

SETUPS = [
    *(Setup(kind) for kind in RUNS),
    Setup("sft", base="gpt2", checkpointing="on"),
    Setup("dpo", adapted=False, checkpointing="re-entrant"),
]


def pairs() -> list[Any]:
    """Each case in each trainer; at once in its first one, and the first probe in all."""
    found = []
    for setup, case in product(SETUPS, CASES):
        strange = setup.base != "llama" and case.key == "decorrelation"  # the earlier stage's adapter is a Llama's
        if case.serves(setup.kind) and (setup.adapted or case.whole) and not strange:
            common = setup in SETUPS[: len(KINDS)] and case in FIRST and setup.kind == case.trainers[0]
            marks = [] if common or case is PROBES[0] else [pytest.mark.slow]
            name = f"{case}-{setup.base}-{setup.kind}-{'lora' if setup.adapted else 'full'}"
            found.append(pytest.param(setup, case, id=name, marks=marks))
    return found


each = pytest.mark.parametrize(("setup", "case"), pairs())


@each
def test_at_weight_zero_nothing_is_different(runs: Any, setup: Setup, case: Case) -> None:
    off, none = runs(setup, (case, 0.0)), runs(setup)
    assert same_bits(off.weights, none.weights)
    assert len(off.gradients) == len(none.gradients)
    assert all(same_bits(one, other) for one, other in zip(off.gradients, none.gradients, strict=True))
    assert off.random == none.random
    assert off.left == none.left
    assert case.watches or not [key for entry in off.log for key in entry if key.startswith("limber/")]


@each
def test_with_a_weight_it_acts_and_draws_nothing_from_the_global_random_states(
    runs: Any, setup: Setup, case: Case
) -> None:
    on, none = runs(setup, (case, case.weight)), runs(setup)
    assert not same_bits(on.weights, none.weights)
    assert on.random == none.random
    assert [key for entry in on.log for key in entry if key.startswith("limber/")]


@each
def test_it_leaves_hooks_flags_modes_and_adapters_as_they_would_have_been(runs: Any, setup: Setup, case: Case) -> None:
    assert runs(setup, (case, case.weight)).left == runs(setup).left


@pytest.mark.parametrize(("setup", "case"), [each for each in pairs() if each.values[1].seat == "activations"])
def test_it_is_evaluated_once_for_each_micro_batch_and_site(runs: Any, setup: Setup, case: Case) -> None:
    on = runs(setup, (case, case.weight))
    (callback,) = runs.callbacks(setup, (case, case.weight))
    assert callback.counts["shown"] == sum(map(len, on.forwards))
    assert callback.counts["evaluated"] == callback.counts["read"] * len(callback.sites)
    assert callback.counts["read"] > 0
    if setup.kind in ("kto", "grpo+kl"):
        assert on.others > 0  # reference passes, of which it saw nothing


@pytest.mark.parametrize("case", at_once([case for case in CASES if case.seat == "activations"], PROBES[:1]))
def test_evaluation_is_none_of_its_business(runs: Any, case: Case) -> None:
    quiet = Setup("sft", dropout=0.0)  # an evaluation dataloader draws a seed of its own
    setup = replace(quiet, args=(("eval_strategy", "steps"), ("eval_steps", 1)))
    callback = case.build(case.weight, runs.place)
    look = Look()
    made = trainer(runs.bases["llama"], runs.fresh(), setup, [spied(callback), look], evaluation=rows("sft"))
    train(made)
    assert look.others == 2 * 1  # eight rows in a batch, after either step
    assert callback.counts["shown"] == sum(map(len, look.forwards)) == 4
    plain = runs(quiet, (case, case.weight))
    assert same_bits(dict(made.model.state_dict()), plain.weights)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_second_trainer_with_the_same_callback_is_as_the_first(runs: Any, case: Case) -> None:
    setup, callback = Setup("sft"), case.build(case.weight, runs.place)
    ends = [run(runs.bases["llama"], runs.fresh(), setup, [callback]) for _ in range(2)]
    assert same_bits(ends[0].weights, ends[1].weights)
    assert same_bits(ends[0].weights, runs(setup, (case, case.weight)).weights)


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{case}-{kind}", marks=[] if kind == case.trainers[0] else [pytest.mark.slow])
        for kind, case in product(RUNS, CASES)
        if case.serves(kind)
    ],
)
def test_the_saved_adapter_loads_in_plain_peft(runs: Any, tmp_path: Path, kind: str, case: Case) -> None:
    on, off = runs(Setup(kind), (case, case.weight)), runs(Setup(kind))
    names = []
    for ended, folder in ((on, tmp_path / "on"), (off, tmp_path / "off")):
        ended.trainer.save_model(str(folder))
        names.append({path.relative_to(folder) for path in folder.rglob("*")})
    assert names[0] == names[1]  # TRL keeps its reference's adapter; one of ours would be nobody's to keep
    base = AutoModelForCausalLM.from_pretrained(runs.bases["llama"], dtype=torch.float32)
    plain = fixtures(base)
    loaded = PeftModel.from_pretrained(base, tmp_path / "on").eval()
    ids = torch.arange(5, 45).reshape(2, 20)
    with torch.no_grad():
        trained = on.trainer.model.eval()(ids).logits
        assert torch.equal(loaded(ids).logits, trained)
        assert (trained - student(runs.bases["llama"], Setup()).eval()(ids).logits).abs().max() > 1e-3
    merged = loaded.merge_and_unload()
    assert fixtures(merged)["hooks"] == plain["hooks"]
    on.trainer.model.train()
