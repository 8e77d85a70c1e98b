"""The optimizer on a real adapter: groups, names, states, schedules, types, and what it refuses."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import Parameter
from transformers.integrations import deepspeed

from limberlm.errors import UserError
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.coordinates import Coordinates, exact_products, open_directions
from limberlm.interventions.folora.optimizer import FoloraOptimizerFactory, create_folora_optimizer
from limberlm.interventions.folora.pencil import scale
from limberlm.interventions.folora.sadam import SAdam
from limberlm.interventions.folora.start import initialize_lora_folora_weights
from limberlm.interventions.folora.stats import FoloraStats
from tests.interventions.folora.pencils import lora, measured
from tests.interventions.folora.test_start import IDS, load

KEYS = {"params", "names", "lr", "betas", "eps", "weight_decay"}
KEYS |= {"spectral", "fused", "lam", "s_min", "step_scale", "fingerprint"}


@pytest.fixture(scope="module")
def stats(tiny_model_folder: Path) -> FoloraStats:
    return measured(load(tiny_model_folder))


def adapter(folder: Path, stats: FoloraStats, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    model = get_peft_model(load(folder), lora(**settings))
    initialize_lora_folora_weights(model, stats)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return model.train()


def trained(model: nn.Module) -> dict[str, Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def push(parameters: dict[str, Parameter], step: int, size: float = 1.0) -> None:
    """The same gradients for each parameter of a name, whichever optimizer holds it."""
    for number, parameter in enumerate(parameters.values()):
        generator = torch.Generator().manual_seed(1000 * step + number)
        parameter.grad = size * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def driven(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range | int) -> dict[str, Tensor]:
    for step in range(steps) if isinstance(steps, int) else steps:
        push(trained(model), step)
        optimizer.step()
    return {name: p.detach().clone() for name, p in trained(model).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[n].double() - other[n].double()).norm() / other[n].double().norm()) for n in one)


# --- what it consists of ---


def test_a_is_spectral_and_b_plain_and_every_key_is_of_a_plain_type(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-3, lr_b=2e-3, lam=2.0, s_min=0.1, step_scale="raw")
    spectral, plain = optimizer.param_groups
    assert set(spectral) == set(plain) == KEYS
    named = dict(model.named_parameters())
    for group, factor in ((spectral, "lora_A"), (plain, "lora_B")):
        assert all(named[n] is p for n, p in zip(group["names"], group["params"], strict=True))
        assert {n for n in trained(model) if factor in n} == set(group["names"])
    assert (spectral["lr"], plain["lr"]) == (1e-3, 2e-3)
    assert (spectral["lam"], spectral["s_min"], spectral["step_scale"]) == (2.0, 0.1, "raw")
    assert [spectral["spectral"], plain["spectral"]] == [True, False]


def test_the_state_holds_no_basis_and_loads_without_pickle(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-3)
    driven(model, optimizer, 2)
    state = optimizer.state_dict()
    assert all(set(each) == {"step", "exp_avg", "exp_avg_sq"} for each in state["state"].values())
    numbers = sum(value.numel() for each in state["state"].values() for value in each.values())
    assert numbers == sum(2 * p.numel() + 1 for p in trained(model).values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["param_groups"] == state["param_groups"]


def test_modules_of_one_input_share_a_basis_and_move_as_if_alone(tiny_model_folder, stats):
    """Stacked by rows or one optimizer each: the same within rounding; and in one kernel or in several."""
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    assert len({id(each) for each in optimizer.coordinates.values()}) == 8  # 4 inputs in each of 2 blocks
    assert len(optimizer.coordinates) == 14
    together = driven(model, optimizer, 5)
    alone = adapter(tiny_model_folder, stats)
    made = create_folora_optimizer(alone, stats, lr=1e-2).param_groups
    each = [
        SAdam(
            [{"params": [p], "names": [n], "spectral": group["spectral"]}],
            {n: optimizer.coordinates[n].basis} if group["spectral"] else {},
            lr=1e-2,
            fused=fused,
        )
        for group in made
        for fused, (n, p) in zip([True, False] * 7, zip(group["names"], group["params"], strict=True), strict=True)
    ]
    for step in range(5):
        push(trained(alone), step)
        for one in each:
            one.step()
    assert apart({n: p.detach() for n, p in trained(alone).items()}, together) < 1e-6


def test_b_moves_by_torch_adamw(tiny_model_folder, stats):
    model, other = adapter(tiny_model_folder, stats), adapter(tiny_model_folder, stats)
    mine = driven(model, create_folora_optimizer(model, stats, lr=1e-2, weight_decay=0.1), 10)
    theirs = driven(other, torch.optim.AdamW(trained(other).values(), lr=1e-2, weight_decay=0.1, fused=True), 10)
    for name in mine:
        assert torch.equal(mine[name], theirs[name]) is ("lora_B" in name)


def test_a_parameter_without_a_gradient_stays(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    push(trained(model), 0)
    without = [name for name in before if "q_proj" in name]
    for name in without:
        trained(model)[name].grad = None
    optimizer.step()
    assert [name for name, p in trained(model).items() if torch.equal(p, before[name])] == without


# --- settings that change on the way ---


def test_a_scheduler_and_a_new_gate_act_at_the_next_step_and_nothing_is_solved_again(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    steps = []
    for number in range(3):
        before = {name: p.detach().clone() for name, p in trained(model).items() if "lora_A" in name}
        push(trained(model), 0)
        optimizer.step()
        steps.append({name: trained(model)[name].detach() - before[name] for name in before})
        schedule.step()
        if number == 1:
            optimizer.param_groups[0]["lam"] = 1e30
    # one gradient again and again: u is its sign, so that only the learning rate and the gate change
    assert apart({n: 2 * v for n, v in steps[1].items()}, steps[0]) < 1e-3
    floor = {n: 0.3 * _ungated(optimizer, n, model, steps) for n in steps[0]}
    assert apart({n: 3 * v for n, v in steps[2].items()}, floor) < 1e-3


def _ungated(optimizer: SAdam, name: str, model: nn.Module, steps: Any) -> Tensor:
    """What the first step would have been without a gate."""
    coordinates = optimizer.coordinates[name]
    push(trained(model), 0)
    gradient = trained(model)[name].grad
    turned = (gradient @ coordinates.basis.V).sign()
    return -1e-2 * scale(coordinates.basis, "rms") * turned @ coordinates.basis.V.T


def test_weight_decay_is_decoupled_and_euclidean(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in trained(model).items()}
    for parameter in trained(model).values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in trained(model).items():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.005))


def test_an_ungated_rms_step_has_the_learning_rate_for_its_root_mean_square_over_sign_patterns(stats):
    for basis in stats.bases.values():
        d = basis.gamma.shape[0]
        A = Parameter(torch.zeros(2000, d, dtype=torch.float64))
        optimizer = SAdam([{"params": [A], "names": ["A"], "spectral": True, "lam": 0.0}], {"A": basis}, lr=1e-3)
        signs = torch.randn(2000, d, generator=torch.Generator().manual_seed(0)).sign().double()
        A.grad = signs @ torch.linalg.inv(basis.V.double())
        optimizer.step()
        assert float(A.detach().square().mean().sqrt()) == pytest.approx(1e-3, rel=0.03)


# --- a part of the basis ---


@pytest.mark.parametrize("rank", [5, 0.8])
def test_with_basis_rank_only_the_first_directions_move(tiny_model_folder, stats, rank):
    stats = replace(stats, config=FoloraConfig(basis_rank=rank))
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    before = {n: p.detach().clone() for n, p in trained(model).items() if "lora_A" in n}
    driven(model, optimizer, 3)
    for name, coordinates in optimizer.coordinates.items():
        k, basis = coordinates.k, coordinates.basis
        spectral = (trained(model)[name].detach() - before[name]).double() @ torch.linalg.inv(basis.V.double()).T
        assert float(spectral[:, k:].abs().max()) < 1e-3 * float(spectral[:, :k].abs().max())
        assert optimizer.state[trained(model)[name]]["exp_avg"].shape == (4, k)
        left = float(basis.gamma[k:].sum() / basis.gamma.sum())
        assert coordinates.left_out == pytest.approx(left, abs=1e-12)
        if rank == 5:
            assert k == 5
        else:
            assert left <= 0.2 < float(basis.gamma[k - 1 :].sum() / basis.gamma.sum())


def test_as_many_directions_as_there_are_is_the_whole_basis(stats):
    runs = []
    for rank in (None, 32):
        runs.append(Coordinates(stats.basis_of("model.layers.0.self_attn.q_proj"), FoloraConfig(basis_rank=rank)))
    gradients = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(each.of(gradients, "rms") for each in runs))
    assert open_directions(runs[0].gamma, 1.0) <= 32
    with pytest.raises(UserError, match=r"basis_rank: 33.* 32 wide"):
        open_directions(runs[0].gamma, 33)


@pytest.mark.parametrize("place", [{"basis_device": "cpu"}, {"matmul_precision": "high"}], ids=str)
def test_where_the_basis_lies_and_tf32_change_nothing_on_a_cpu(tiny_model_folder, stats, place):
    ends = []
    for each in (stats, replace(stats, config=FoloraConfig(**place))):
        model = adapter(tiny_model_folder, each)
        ends.append(driven(model, create_folora_optimizer(model, each, lr=1e-2), 3))
    assert same(*ends)


def test_a_basis_of_16_bits_moves_nearly_as_one_of_32(tiny_model_folder, stats):
    rounded = replace(
        stats, bases={name: replace(basis, V=basis.V.to(torch.bfloat16)) for name, basis in stats.bases.items()}
    )
    ends = []
    for each in (stats, rounded):
        model = adapter(tiny_model_folder, each)
        ends.append(driven(model, create_folora_optimizer(model, each, lr=1e-2), 3))
    assert 0 < apart(ends[1], ends[0]) < 0.05


def test_products_are_exact_under_autocast_and_the_global_setting_is_left_as_found():
    before = torch.get_float32_matmul_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with exact_products("highest", torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")
    with pytest.raises(KeyError), exact_products("high", torch.device("cpu")):
        raise KeyError(torch.get_float32_matmul_precision())
    assert torch.get_float32_matmul_precision() == before


# --- parameters of 16 bits ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
def test_steps_too_small_for_16_bits_are_not_lost(tiny_model_folder, stats, dtype):
    model = adapter(tiny_model_folder, stats, dtype)
    optimizer = create_folora_optimizer(model, stats, lr=2e-5)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.fill_(0.05)
    begun = trained(model)["base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"][0, 0].item()
    for _ in range(100):
        for parameter in trained(model).values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for name, parameter in trained(model).items():
        assert parameter.dtype == dtype
        assert torch.equal(parameter.detach(), optimizer.state[parameter]["master"].to(dtype))
        if "lora_B" in name:
            expected = torch.full_like(parameter, begun, dtype=torch.float32) - 0.002
            torch.testing.assert_close(optimizer.state[parameter]["master"], expected, rtol=1e-3, atol=0)
        assert optimizer.state[parameter]["exp_avg"].dtype == torch.float32


def test_a_16_bit_adapter_follows_the_32_bit_one(tiny_model_folder, stats):
    ends = []
    for dtype in (torch.float32, torch.bfloat16):
        model = adapter(tiny_model_folder, stats, dtype)
        optimizer = create_folora_optimizer(model, stats, lr=1e-3)
        driven(model, optimizer, 20)
        ends.append({n: optimizer.state[p].get("master", p.detach()) for n, p in trained(model).items()})
    assert apart(ends[1], ends[0]) < 0.02


def test_an_adapter_that_is_cast_after_the_optimizer_was_made_has_its_copy(tiny_model_folder, stats, caplog):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-3)
    for parameter in trained(model).values():
        parameter.data = parameter.data.to(torch.bfloat16)
    driven(model, optimizer, 2)
    assert all("master" in optimizer.state[p] for p in trained(model).values())
    assert len([record for record in caplog.records if "bfloat16" in record.getMessage()]) == 1


def test_what_else_moves_a_16_bit_parameter_is_not_undone_by_its_copy(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats, torch.bfloat16)
    optimizer = create_folora_optimizer(model, stats, lr=1e-6)
    driven(model, optimizer, 2)
    with torch.no_grad():
        for parameter in trained(model).values():
            parameter.fill_(3.0)
    driven(model, optimizer, range(2, 3))
    for parameter in trained(model).values():
        torch.testing.assert_close(optimizer.state[parameter]["master"], torch.full(parameter.shape, 3.0))


# --- resume ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_ends_with_the_same_bits(tiny_model_folder, stats, dtype):
    model = adapter(tiny_model_folder, stats, dtype)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2, weight_decay=0.01)
    driven(model, optimizer, 3)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    whole = driven(model, optimizer, range(3, 6))
    again = adapter(tiny_model_folder, stats, dtype)
    again.load_state_dict(weights)
    resumed = create_folora_optimizer(again, stats, lr=1.0)
    resumed.load_state_dict(state)
    assert same(driven(again, resumed, range(3, 6)), whole)


def test_another_basis_and_other_parameters_are_refused_at_resume(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    driven(model, optimizer, 1)
    first = next(iter(stats.bases))
    turned = stats.bases | {first: replace(stats.bases[first], V=-stats.bases[first].V)}
    other = replace(stats, bases=turned)
    assert other.fingerprint != stats.fingerprint
    with pytest.raises(UserError, match=f"{stats.fingerprint}.*{other.fingerprint}"):
        create_folora_optimizer(model, other, lr=1e-2).load_state_dict(optimizer.state_dict())
    plain = torch.optim.AdamW([{"params": g["params"]} for g in optimizer.param_groups], lr=1e-2)
    with pytest.raises(UserError, match="statistics"):
        optimizer.load_state_dict(plain.state_dict())
    renamed = copy.deepcopy(optimizer.state_dict())
    renamed["param_groups"][0]["names"][0] = "elsewhere"
    with pytest.raises(UserError, match=r"elsewhere|q_proj"):
        optimizer.load_state_dict(renamed)


def test_a_resumed_run_keeps_its_gate_and_tells_of_another(tiny_model_folder, stats, caplog):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2, lam=4.0)
    driven(model, optimizer, 3)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    whole = driven(model, optimizer, range(3, 6))
    for gate, told in (({"lam": 4.0}, []), ({"s_min": 0.1}, [("lam", 4.0), ("s_min", 0.3)])):
        again = adapter(tiny_model_folder, stats)
        again.load_state_dict(weights)
        caplog.clear()
        resumed = create_folora_optimizer(again, stats, lr=1e-2, **gate)
        resumed.load_state_dict(copy.deepcopy(state))  # whose tensors it takes over
        said = [f"SAdam: {name}: the run goes on with its saved {value}" for name, value in told]
        assert [record.getMessage().split(", ")[0] for record in caplog.records] == said
        assert same(driven(again, resumed, range(3, 6)), whole)


def test_names_survive_parameters_that_are_replaced(tiny_model_folder, stats):
    """As Accelerate does it: other objects in the groups' lists, in their order."""
    model, other = adapter(tiny_model_folder, stats), adapter(tiny_model_folder, stats)
    wanted = driven(model, create_folora_optimizer(model, stats, lr=1e-2), 3)
    optimizer = create_folora_optimizer(other, stats, lr=1e-2)
    fresh = {name: Parameter(p.detach().clone()) for name, p in trained(other).items()}
    for group in optimizer.param_groups:
        group["params"] = [fresh[name] for name in group["names"]]
    for step in range(3):
        push({name: fresh[name] for name in trained(other)}, step)
        optimizer.step()
    assert same({name: p.detach() for name, p in fresh.items()}, wanted)


# --- where the trainer makes it ---


def test_the_factory_makes_it_from_a_folder(tiny_model_folder, stats, tmp_path):
    saved = stats.save(tmp_path / "X.folora")
    ends = []
    for given in (tmp_path / "X.folora", str(tmp_path / "X.folora"), saved):
        model = adapter(tiny_model_folder, stats)
        ends.append(driven(model, FoloraOptimizerFactory()(model, stats=given, lr=1e-2, s_min=0.1), 3))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])
    with pytest.raises(UserError, match="nowhere"):
        FoloraOptimizerFactory()(model, stats=tmp_path / "nowhere", lr=1e-2)


# --- refusals ---


def refused(match: str, make: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1.0}, "lr: -1.0"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"eps": -1e-8}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"lam": -1.0}, "lam: -1.0"),
        ({"s_min": 1.1}, "s_min: 1.1"),
        ({"step_scale": "mean"}, "step_scale: mean"),
        ({"lr_b": -1.0}, "lr: -1.0"),
        ({"lr": float("nan")}, "lr: nan"),
    ],
)
def test_values_out_of_range_are_refused(tiny_model_folder, stats, settings, match):
    model = adapter(tiny_model_folder, stats)
    refused(match, lambda: create_folora_optimizer(model, stats, **{"lr": 1e-3} | settings))


def test_whatever_has_no_basis_is_refused_or_trained_plainly(tiny_model_folder, stats):
    for settings in ({"modules_to_save": ["lm_head"]}, {"bias": "lora_only", "lora_bias": True}):
        model = get_peft_model(load(tiny_model_folder), lora(**settings))
        initialize_lora_folora_weights(model, stats)
        refused("without protection", lambda model=model: create_folora_optimizer(model, stats, lr=1e-3))
        allowed = replace(stats, config=FoloraConfig(unprotected="adamw"))
        optimizer = create_folora_optimizer(model, allowed, lr=1e-3)
        named = [name for group in optimizer.param_groups for name in group["names"]]
        assert sorted(named) == sorted(trained(model))
        assert [group["spectral"] for group in optimizer.param_groups] == [True, False, False]
        before = {name: p.detach().clone() for name, p in trained(model).items()}
        after = driven(model, optimizer, 2)
        assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_closure_deepspeed_and_flattened_or_sharded_parameters_are_refused(tiny_model_folder, stats, monkeypatch):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-3)
    refused("closure", lambda: optimizer.step(lambda: 0.0))
    push(trained(model), 0)
    flat = copy.copy(optimizer.param_groups[0])
    optimizer.param_groups[0]["params"] = [Parameter(torch.cat([p.detach().flatten() for p in flat["params"]]))]
    refused("DeepSpeed.*FSDP2", optimizer.step)
    settings = SimpleNamespace(config={"zero_optimization": {"stage": 2}})
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", lambda: settings)
    refused("deepspeed", lambda: create_folora_optimizer(model, stats, lr=1e-3))
    monkeypatch.undo()
    trained(model)[flat["names"][0]].ds_id = 1
    refused("deepspeed", lambda: create_folora_optimizer(model, stats, lr=1e-3))
    wrapper = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # its constructor needs an accelerator
    nn.Module.__init__(wrapper)
    refused("fsdp_version: 2", lambda: create_folora_optimizer(nn.Sequential(wrapper), stats, lr=1e-3))


def test_another_base_other_modules_and_another_adapter_are_refused(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    refused('no LoRA adapter "mine"', lambda: create_folora_optimizer(model, stats, lr=1e-3, adapter_name="mine"))
    few = get_peft_model(load(tiny_model_folder), lora(target_modules=["q_proj"]))
    refused("prepare", lambda: create_folora_optimizer(few, stats, lr=1e-3))
    with torch.no_grad():
        model.get_base_model().model.norm.weight.mul_(2)
    refused("base", lambda: create_folora_optimizer(model, stats, lr=1e-3))


def test_a_group_without_names_or_basis_or_of_another_width_is_refused(stats):
    A, basis = Parameter(torch.zeros(2, 5)), next(iter(stats.bases.values()))
    refused("names", lambda: SAdam([{"params": [A]}], {}))
    refused("no basis", lambda: SAdam([{"params": [A], "names": ["A"], "spectral": True}], {}))
    refused(r"\[2, 5\].*32", lambda: SAdam([{"params": [A], "names": ["A"], "spectral": True}], {"A": basis}))


def test_a_step_through_the_model_lowers_its_loss(tiny_model_folder, stats):
    model = adapter(tiny_model_folder, stats)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
