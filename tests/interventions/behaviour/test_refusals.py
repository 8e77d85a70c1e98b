"""What cannot work is refused in one line that names the intervention and the setting, before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset
from torch.distributed.fsdp import fully_shard
from transformers import LlamaForCausalLM, TrainerControl, TrainerState

from limberlm.errors import LimberError, UserError
from tests.interventions.behaviour.cases import CASES, PROBES, Case
from tests.interventions.behaviour.runs import (
    KINDS,
    Setup,
    arguments,
    run,
    same_bits,
    student,
    tokenizer,
    train,
    trainer,
)

SETTABLE = [case for case in CASES if case.settable]


def begin(runs: Any, case: Case, callback: Any, model: Any = None, **changes: Any) -> None:
    base = runs.bases["llama"]
    model = student(base, Setup()) if model is None else model
    args = arguments(runs.fresh(), **changes)
    callback.on_train_begin(
        args, TrainerState(max_steps=9), TrainerControl(), model=model, processing_class=tokenizer(base)
    )


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("case", SETTABLE, ids=str)
def test_a_weight_that_is_none(runs: Any, case: Case, weight: float) -> None:
    with pytest.raises(UserError, match=rf"^{case.name}: \w+") as refused:
        case.build(weight, runs.place)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("case", [case for case in CASES if case.seat == "activations" and case.sited], ids=str)
@pytest.mark.parametrize("site", ["block.2", "block.-1", "embed", "attention"])
def test_a_site_that_the_model_lacks(runs: Any, case: Case, site: str) -> None:
    callback = case.build(case.weight, runs.place)
    callback.settings = callback.settings.model_copy(update={"sites": (site,)})
    with pytest.raises(
        UserError, match=rf"^{case.name}: sites: {site} .*there are block\.0 to block\.1, and final_norm$"
    ):
        begin(runs, case, callback)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_of_a_kind(runs: Any, tmp_path: Path, case: Case) -> None:
    two = [case.build(case.weight, runs.place) for _ in range(2)]
    with pytest.raises(UserError, match=rf"^{case.name}: two of them") as refused:
        run(runs.bases["llama"], tmp_path, Setup(case.trainers[0]), two)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("case", [case for case in CASES if set(KINDS) - set(case.trainers)], ids=str)
def test_a_trainer_it_cannot_serve(runs: Any, tmp_path: Path, case: Case) -> None:
    kind = next(kind for kind in KINDS if kind not in case.trainers)
    with pytest.raises(UserError, match=rf"^{case.name}: cannot be used with trainer {kind}, only with"):
        run(runs.bases["llama"], tmp_path, Setup(kind), [case.build(case.weight, runs.place)])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_deepspeed(runs: Any, case: Case) -> None:
    callback = case.build(case.weight, runs.place)
    with pytest.raises(UserError, match=rf"^{case.name}: deepspeed ") as refused:
        begin(runs, case, callback, deepspeed="ds.json")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_that_are_sharded(runs: Any, tmp_path: Path, case: Case) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = LlamaForCausalLM.from_pretrained(runs.bases["llama"], dtype=torch.float32)
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))
        with pytest.raises(UserError, match=rf"^{case.name}: .*FSDP2"):
            begin(runs, case, case.build(case.weight, runs.place), model)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("seat", ["value", "gradient", "parameters"])
def test_a_penalty_that_is_not_finite_stops_the_run_and_leaves_the_weights(
    runs: Any, tmp_path: Path, seat: str
) -> None:
    case = PROBES[3] if seat == "parameters" else PROBES[0]
    callback, bad = case.build(case.weight, runs.place), torch.tensor(float("nan"))
    if seat == "parameters":
        callback.gradients = lambda parameters: (bad, {n: p.detach() for n, p in parameters.items()})
        where = "the penalty"
    else:
        value = bad if seat == "value" else torch.tensor(1.0)
        callback.penalty = lambda states, batch, site: (value, states * (bad if seat == "gradient" else 1.0))
        where = "the penalty at (block.0|final_norm)"
    model = student(runs.bases["llama"], Setup())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = trainer(runs.bases["llama"], tmp_path, Setup(), [callback], model=model)
    with pytest.raises(LimberError, match=rf"^{case.name}: {where} is not finite at step 1: lower its weight"):
        train(made)
    assert same_bits(model.state_dict(), before)


def test_a_micro_batch_with_too_few_tokens_is_passed_over_and_counted(runs: Any, tmp_path: Path) -> None:
    case = PROBES[0]
    short = Dataset.from_dict({"prompt": ["river stone lamp"] * 8, "completion": [""] * 8})
    ends = [
        run(runs.bases["llama"], tmp_path, Setup(), callbacks, dataset=short)
        for callbacks in ([case.build(1.0, runs.place)], [])
    ]
    assert same_bits(ends[0].weights, ends[1].weights)
    (skipped,) = {entry["limber/half_square_skipped"] for entry in ends[0].log if "limber/half_square_skipped" in entry}
    assert skipped == 1.0
