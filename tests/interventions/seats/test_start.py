"""A stage's start: kept, read back, and swapped in for a reference pass that leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from limberlm.errors import UserError
from limberlm.interventions.seats.start import FILE, StartParameters
from tests.observe.tiny import tiny


def adapted() -> nn.Module:
    torch.manual_seed(0)
    return get_peft_model(
        tiny(), LoraConfig(r=2, lora_dropout=0.5, target_modules="all-linear", task_type="CAUSAL_LM")
    ).train()


def moved(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def taken(model: nn.Module, folder: Path, step: int = 0, save: str = "steps", main: bool = True) -> StartParameters:
    args = SimpleNamespace(output_dir=str(folder), save_strategy=save)
    state = SimpleNamespace(global_step=step, is_world_process_zero=main)
    return StartParameters.of(model, args, state, "anchor")


def ids() -> torch.Tensor:
    return torch.arange(5, 25).reshape(2, 10)


@pytest.mark.parametrize("make", [adapted, lambda: tiny().train()], ids=["lora", "full"])
def test_inside_the_model_is_the_one_the_stage_started_from(make: Any, tmp_path: Path) -> None:
    model = make()
    before = model.eval()(ids()).logits.detach()
    model.train()
    start = taken(model, tmp_path)
    moved(model)
    with start.swapped_in(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        assert torch.equal(model(ids()).logits, before)
    assert not torch.equal(model.eval()(ids()).logits, before)


def test_outside_everything_is_as_it_was_also_after_an_exception(tmp_path: Path) -> None:
    model = adapted()
    start = taken(model, tmp_path)
    moved(model)
    model.base_model.model.lm_head.eval()  # modes may be mixed
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
    now = {name: (p.data_ptr(), p.detach().clone(), p.grad) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    drawn = torch.get_rng_state()

    def reads() -> None:
        with start.swapped_in(model):
            model(ids())
            torch.rand(3)
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        reads()
    for name, parameter in model.named_parameters():
        address, value, gradient = now[name]
        assert parameter.data_ptr() == address
        assert torch.equal(parameter, value)
        assert parameter.grad is gradient
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.is_grad_enabled()
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("make", [adapted, lambda: tiny().train()], ids=["lora", "full"])
def test_under_autocast_the_pass_that_follows_reads_the_parameters_of_now(make: Any, tmp_path: Path) -> None:
    """Autocast keeps its bfloat16 copy of a parameter by the parameter's identity, whose values had changed."""
    model = make()
    start = taken(model, tmp_path)
    moved(model)
    passes = []
    for reference in (False, True):
        model.zero_grad()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if reference:
                with start.swapped_in(model):
                    model(ids())
            loss = model(ids(), labels=ids()).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        passes.append((loss.detach(), gradients))
    (loss, gradients), (other_loss, other_gradients) = passes
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradients[name], other_gradients[name]) for name in gradients)


def test_a_model_whose_parameters_have_other_names_is_no_start(tmp_path: Path) -> None:
    model = adapted()
    start = taken(model, tmp_path)
    with pytest.raises(KeyError, match="lora"), start.swapped_in(model.get_base_model()):
        pass


def test_a_resumed_run_reads_the_start_of_the_first(tmp_path: Path) -> None:
    model = adapted()
    start = taken(model, tmp_path)
    moved(model)
    again = taken(model, tmp_path, step=3)
    assert start.values.keys() == again.values.keys()
    assert all(torch.equal(start.values[name], again.values[name]) for name in start.values)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("how", [{"save": "no"}, {"main": False}])
def test_nothing_is_written_where_nobody_resumes_nor_by_a_second_process(how: dict[str, Any], tmp_path: Path) -> None:
    taken(adapted(), tmp_path, **how)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_without_its_start_or_with_anothers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{FILE}: no such file, and training resumes at step 3; anchor is held to"):
        taken(adapted(), tmp_path, step=3)
    taken(tiny(), tmp_path)
    with pytest.raises(UserError, match=f"{FILE}: the start of another run"):
        taken(adapted(), tmp_path, step=3)


def test_a_damaged_start_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no safetensors")
    with pytest.raises(UserError, match=rf"{FILE}: .*") as refused:
        taken(adapted(), tmp_path, step=3)
    assert "\n" not in str(refused.value)
