"""The start leaves the model what it was, reads where the proxy does not write, and ends as a plain adapter."""

from __future__ import annotations

import copy
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from limberlm.errors import UserError
from limberlm.interventions.folora.adapted import Adapted, adapted
from limberlm.interventions.folora.config import FoloraConfig
from limberlm.interventions.folora.optimizer import create_folora_optimizer
from limberlm.interventions.folora.start import initialize_lora_folora_weights, save_folora_pretrained
from limberlm.interventions.folora.stats import FoloraStats
from tests.interventions.folora.pencils import lora, measured

# PEFT's, on Conv1D and on patterns of modules that GPT-2 does not have
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:The following (rank|alpha)_pattern")

IDS = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(1))
KINDS = ["null_zero", "null_residual"]
SHAPES: dict[str, dict[str, Any]] = {
    "kappa 1": {"r": 4, "lora_alpha": 4},
    "kappa 2": {"r": 4, "lora_alpha": 8},
    "rsLoRA": {"r": 4, "lora_alpha": 4, "use_rslora": True},
    "pattern": {"r": 4, "lora_alpha": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 12}},
}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def begun(folder: Path, out: Path, init: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """A base with an adapter that has its start, and the statistics."""
    model = load(folder, dtype)
    stats = measured(model, FoloraConfig(init=init), path=out / "X.folora")
    model = get_peft_model(model, lora(**settings))
    initialize_lora_folora_weights(model, stats)
    return model.eval(), stats


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def far(one: Tensor, other: Tensor) -> float:
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).abs().max() / other.abs().max())


def stir(model: nn.Module, stats: FoloraStats, size: float = 0.1) -> None:
    """Move A and B as a training would."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for each in adapted(model, stats, "default").values():
            for factor in (each.A, each.B):
                factor.add_(size * torch.randn(factor.shape, generator=generator))


def stored(each: Adapted) -> Tensor:
    weight: Tensor = each.layer.get_base_layer().weight
    return weight.T if each.layer.fan_in_fan_out else weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_null_zero_leaves_every_bit_of_the_function(tiny_model_folder, tmp_path, dtype, shape):
    model, stats = begun(tiny_model_folder, tmp_path, "null_zero", dtype, **SHAPES[shape])
    assert torch.equal(logits(model), logits(load(tiny_model_folder, dtype)))
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(load(tiny_model_folder, dtype)))
    for module, each in adapted(model, stats, "default").items():
        assert torch.equal(each.A, stats.basis_of(module).null[:, : len(each.A)].T.to(each.A))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("base", ["tiny_model_folder", "gpt2_folder"])
def test_null_residual_splits_the_weights_and_leaves_the_function(request, tmp_path, shape, base):
    folder = request.getfixturevalue(base)
    untouched = load(folder)
    model, stats = begun(folder, tmp_path, "null_residual", **SHAPES[shape])
    assert far(logits(model), logits(untouched)) < 2e-5
    for module, each in adapted(model, stats, "default").items():
        plain = untouched.get_submodule(module).weight.double()
        W0 = plain.T if each.layer.fan_in_fan_out else plain
        U = stats.basis_of(module).null[:, : len(each.A)].double()
        assert far(stored(each) + each.kappa * each.B @ each.A, W0) < 1e-6
        assert far(each.B * each.kappa, W0 @ U) < 1e-6
        assert float((stored(each).detach().double() @ U).norm() / W0.norm()) < 1e-6
    with model.disable_adapter():
        assert far(logits(model), logits(untouched)) > 0.05  # the base alone is another model


def test_null_residual_on_a_bfloat16_base_is_off_by_as_much_as_bfloat16_itself(tiny_model_folder, tmp_path):
    exact, rounded = logits(load(tiny_model_folder)), logits(load(tiny_model_folder, torch.bfloat16))
    model, _ = begun(tiny_model_folder, tmp_path, "null_residual", torch.bfloat16)
    assert 0.1 < far(logits(model), rounded) / far(rounded, exact) < 3


def test_the_start_reads_as_little_of_the_proxy_as_r_directions_can(tiny_model_folder, tmp_path):
    model, stats = begun(tiny_model_folder, tmp_path, "null_zero")
    for module, each in adapted(model, stats, "default").items():
        basis = stats.basis_of(module)
        H = torch.linalg.inv(basis.V.double() @ basis.V.double().T)
        Cp = H - basis.tau * torch.eye(len(H), dtype=torch.float64)
        A = each.A.detach().double()
        assert float((A @ Cp @ A.T).trace()) == pytest.approx(float(basis.spectrum[:4].sum()), rel=0.02, abs=1e-6)


def test_at_the_first_step_of_null_zero_only_b_has_a_gradient(tiny_model_folder, tmp_path):
    for init, moves in (("null_zero", False), ("null_residual", True)):
        model, stats = begun(tiny_model_folder, tmp_path / init, init)
        model(input_ids=IDS, labels=IDS).loss.backward()
        for each in adapted(model, stats, "default").values():
            assert bool(each.A.grad.any()) is moves
            assert bool(each.B.grad.any())


def test_keep_leaves_the_adapter_as_peft_made_it(tiny_model_folder, tmp_path):
    model, _ = begun(tiny_model_folder, tmp_path, "keep")
    other = get_peft_model(load(tiny_model_folder), lora())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


BASES = ("tiny_model_folder", "gpt2_folder")
FAST = [(KINDS[1], BASES[0], shape) for shape in SHAPES]
FAST += [(KINDS[1], BASES[1], "kappa 2"), (KINDS[0], BASES[0], "kappa 2")]
REST = [each for each in product(KINDS, BASES, SHAPES) if each not in FAST]


@pytest.mark.parametrize(
    ("init", "base", "shape"), [*FAST, *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)]
)
def test_a_trained_adapter_is_plain_lora_on_the_untouched_base(request, tmp_path, init, base, shape):
    folder = request.getfixturevalue(base)
    model, stats = begun(folder, tmp_path, init, **SHAPES[shape])
    stir(model, stats)
    wanted, before = logits(model), copy.deepcopy(model.state_dict())
    save_folora_pretrained(model, stats, tmp_path / "adapter")
    assert list(model.peft_config) == ["default"]
    assert model.active_adapters == ["default"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(model), wanted)
    loaded = PeftModel.from_pretrained(load(folder), tmp_path / "adapter").eval()
    assert far(logits(loaded), wanted) < 2e-5
    assert far(logits(loaded.merge_and_unload()), wanted) < 2e-5
    assert far(logits(load(folder)), wanted) > 0.05
    if init == "null_residual":
        config = loaded.peft_config["default"]
        assert config.r == 8
        assert all(
            m.r["default"] == m.lora_A["default"].weight.shape[0] for m in loaded.modules() if hasattr(m, "lora_A")
        )


def test_unconverted_the_residual_adapter_is_wrong_on_the_untouched_base(tiny_model_folder, tmp_path):
    model, stats = begun(tiny_model_folder, tmp_path, "null_residual")
    stir(model, stats)
    model.save_pretrained(tmp_path / "raw")
    loaded = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "raw").eval()
    assert far(logits(loaded), logits(model)) > 0.05


def test_an_adapter_of_another_name_is_saved_alone(tiny_model_folder, tmp_path):
    model = load(tiny_model_folder)
    stats = measured(model, FoloraConfig(init="null_residual"), path=tmp_path / "X.folora")
    model = get_peft_model(model, lora(), adapter_name="mine")
    model.add_adapter("ref", lora())
    initialize_lora_folora_weights(model, stats, adapter_name="mine")
    save_folora_pretrained(model, stats, tmp_path / "out", adapter_name="mine")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["mine"]
    kept = load_file(tmp_path / "out" / "mine" / "adapter_model.safetensors")
    A = next(value for name, value in kept.items() if "lora_A" in name)
    assert torch.equal(A[:4], A[4:])  # nothing was trained


def test_runs_of_two_shapes_keep_their_starts_apart(tiny_model_folder, tmp_path):
    one, stats = begun(tiny_model_folder, tmp_path, "null_residual", r=4)
    other = get_peft_model(load(tiny_model_folder), lora(r=2))
    initialize_lora_folora_weights(other, stats)
    for model in (one, other):
        save_folora_pretrained(model, stats, tmp_path / "out")
        loaded = PeftModel.from_pretrained(load(tiny_model_folder), tmp_path / "out").eval()
        assert far(logits(loaded), logits(load(tiny_model_folder))) < 2e-5


# --- refusals ---


def refused(match: str, model: nn.Module, stats: FoloraStats) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=match) as caught:
        initialize_lora_folora_weights(model, stats)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("init", KINDS)
def test_an_adapter_that_was_trained_is_not_erased(tiny_model_folder, tmp_path, init):
    model, stats = begun(tiny_model_folder, tmp_path, init)
    stir(model, stats)
    refused("B is not 0", model, stats)


def test_a_quantised_base_cannot_be_split(tiny_model_folder, tmp_path):
    base = load(tiny_model_folder)
    stats = measured(base, FoloraConfig(init="null_residual"), path=tmp_path / "X.folora")
    model = get_peft_model(base, lora())
    layer = model.get_base_model().model.layers[1].mlp.up_proj.base_layer
    layer.weight = nn.Parameter(layer.weight.round().to(torch.int8), requires_grad=False)
    refused(r"layers.1.mlp.up_proj.*quantised.*null_zero", model, stats)


class Quantised(nn.Linear):
    """8 bits a weight, and a scale."""

    @classmethod
    def of(cls, linear: nn.Linear) -> Quantised:
        made = cls(linear.in_features, linear.out_features, bias=False)
        made.scale = linear.weight.detach().abs().max() / 127
        made.weight = nn.Parameter((linear.weight.detach() / made.scale).round().to(torch.int8), requires_grad=False)
        return made

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale)


def quantised(folder: Path) -> Any:
    model = load(folder)
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, Quantised.of(linear))
    return model


def test_on_a_quantised_base_null_zero_starts_and_trains_and_is_saved(tiny_model_folder, tmp_path):
    base = quantised(tiny_model_folder)
    before, stats = logits(base), measured(base)
    model = get_peft_model(base, lora())
    initialize_lora_folora_weights(model, stats)
    assert torch.equal(logits(model), before)
    optimizer = create_folora_optimizer(model, stats, lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert far(logits(model), before) > 0.05
    save_folora_pretrained(model, stats, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(quantised(tiny_model_folder), tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), logits(model))


def test_statistics_that_were_not_saved_cannot_split(tiny_model_folder):
    base = load(tiny_model_folder)
    stats = measured(base, FoloraConfig(init="null_residual"))
    refused(r"not saved.*stats.save", get_peft_model(base, lora()), stats)


def test_other_modules_a_larger_rank_and_another_base_are_refused(tiny_model_folder, tmp_path):
    base = load(tiny_model_folder)
    stats = measured(base)
    refused("prepare", get_peft_model(load(tiny_model_folder), lora(target_modules=["q_proj"])), stats)
    refused("rank 8.*4", get_peft_model(load(tiny_model_folder), lora(r=8)), stats)
    other = load(tiny_model_folder)
    with torch.no_grad():
        other.model.layers[0].self_attn.q_proj.weight.mul_(1.1)
    refused("base", get_peft_model(other, lora()), stats)
    refused("get_peft_model first", load(tiny_model_folder), stats)
    refused("[Dd]ora", get_peft_model(load(tiny_model_folder), lora(use_dora=True)), stats)


def test_what_peft_cannot_convert_in_the_end_is_refused_at_the_start(tiny_model_folder, tmp_path):
    base = load(tiny_model_folder)
    stats = measured(base, FoloraConfig(init="null_residual"), path=tmp_path / "X.folora")
    for pattern in ({"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 2}}):
        refused("use_rslora", get_peft_model(load(tiny_model_folder), lora(use_rslora=True, **pattern)), stats)
    injected = inject_adapter_in_model(lora(), load(tiny_model_folder))
    refused("get_peft_model", injected, stats)


def test_an_adapter_without_peft_s_model_starts_and_trains(tiny_model_folder):
    base = load(tiny_model_folder)
    stats = measured(base)
    model = inject_adapter_in_model(lora(), base)
    initialize_lora_folora_weights(model, stats)
    assert torch.equal(logits(model), logits(load(tiny_model_folder)))
    assert len(create_folora_optimizer(model, stats, lr=1e-3).coordinates) == 14


def test_a_start_that_is_gone_is_told(tiny_model_folder, tmp_path):
    model, stats = begun(tiny_model_folder, tmp_path, "null_residual")
    shutil.rmtree(tmp_path / "X.folora" / "init")
    with pytest.raises(UserError, match="no such folder"):
        save_folora_pretrained(model, stats, tmp_path / "out")
