"""The random control has the trained update's singular values and none of its directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy import stats
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import limberlm
from limberlm.errors import UserError
from limberlm.stages.controls import random_adapter as module
from limberlm.stages.controls.random_adapter import generator_of, haar_frame, random_adapter, random_update
from tests.observe.adapted import base_folder, edit_config, edit_tensors, merged, save_adapter
from tests.observe.tiny import tiny

WEIGHTS = "adapter_model.safetensors"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "rslora": ("llama", {"use_rslora": True, "r": 3}),
    "negative scale": ("llama", {"lora_alpha": -3}),
    "patterns": ("llama", {"rank_pattern": {"down_proj": 6}, "alpha_pattern": {r".*\.0\..*q_proj": 3}}),
    "rank above the width": ("llama", {"r": 50, "target_modules": "all-linear"}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}),
}


def updates(folder: Path, name: str = "llama") -> dict[str, torch.Tensor]:
    """What PEFT's own merge adds to each weight, in float64."""
    untied: dict[str, Any] = {"tie_word_embeddings": False}
    before = tiny(name, **untied).double().state_dict()
    after = merged(folder, tiny(name, **untied))
    return {key: after[key] - before[key] for key in after if not torch.equal(after[key], before[key])}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- adapters


@pytest.mark.parametrize("kind", KINDS)
def test_every_update_keeps_its_singular_values_as_peft_merges_it(kind: str, tmp_path: Path) -> None:
    name, settings = KINDS[kind]
    trained = save_adapter(tmp_path / "trained", model=tiny(name, tie_word_embeddings=False), **settings)
    random_adapter(trained, tmp_path / "random", seed=0)
    wanted, found = (updates(folder, name) for folder in (trained, tmp_path / "random"))
    assert wanted.keys() == found.keys()
    assert len(wanted) >= 3
    for key, update in wanted.items():
        rank = np.linalg.matrix_rank(update.numpy())
        values, own = (np.linalg.svd(each.numpy(), compute_uv=False) for each in (update, found[key]))
        np.testing.assert_allclose(own[:rank], values[:rank], rtol=1e-6)
        assert own[rank:].max(initial=0) < 1e-6 * values[0]


def test_a_smaller_one_has_smaller_singular_values_and_the_same_directions(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    for name, size in (("whole", 1.0), ("small", 1e-3)):
        random_adapter(trained, tmp_path / name, seed=0, size=size)
    whole, small = updates(tmp_path / "whole"), updates(tmp_path / "small")
    for key, update in whole.items():
        torch.testing.assert_close(small[key], 1e-3 * update, rtol=1e-4, atol=1e-9)


def test_the_directions_are_as_far_from_the_trained_ones_as_chance(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    for seed in (0, 1):
        random_adapter(trained, tmp_path / str(seed), seed=seed)
    pairs = limberlm.measure_updates([tmp_path / "0", trained, tmp_path / "1"])
    z = [pairs.value(name, "1", "0") for name in ("update_cosine", "update_excess_overlap")]
    z += [pairs.value(name, "trained", "0") for name in ("update_cosine", "update_excess_overlap")]
    assert np.abs(z).max() < 0.05
    for name in ("update_effective_rank", "update_rankme", "update_stable_rank", "update_norm"):
        own = {stage: pairs.value(name, stage) for stage in ("0", "trained", "1")}
        assert own["0"] == pytest.approx(own["trained"], rel=1e-6)
        assert own["1"] == pytest.approx(own["trained"], rel=1e-6)


def test_the_folder_is_the_same_card_and_float32_factors_under_the_same_names(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    edit_tensors(trained, lambda tensors: tensors.update({k: t.bfloat16() for k, t in tensors.items()}))
    random_adapter(trained, tmp_path / "deep" / "random", seed=0)
    made = files(tmp_path / "deep" / "random")
    assert sorted(made) == ["adapter_config.json", WEIGHTS]
    assert made["adapter_config.json"] == files(trained)["adapter_config.json"]
    shapes = [
        {name: tensor.shape for name, tensor in load_file(folder / WEIGHTS).items()}
        for folder in (trained, tmp_path / "deep" / "random")
    ]
    assert shapes[0] == shapes[1]
    assert {tensor.dtype for tensor in load_file(tmp_path / "deep" / "random" / WEIGHTS).values()} == {torch.float32}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["random"]


def test_a_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        torch.manual_seed(len(name) + seed)
        random_adapter(trained, tmp_path / name, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a")[WEIGHTS] != files(tmp_path / "c")[WEIGHTS]


def test_the_global_random_state_is_not_touched(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    before = torch.random.get_rng_state()
    random_adapter(trained, tmp_path / "random", seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_modules_draw_depends_on_no_other_module_and_no_two_share_one(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    random_adapter(trained, tmp_path / "all", seed=0)
    everything = load_file(tmp_path / "all" / WEIGHTS)
    edit_tensors(trained, lambda tensors: [tensors.pop(k) for k in list(tensors) if "layers.1" not in k])
    random_adapter(trained, tmp_path / "some", seed=0)
    some = load_file(tmp_path / "some" / WEIGHTS)
    assert 0 < len(some) < len(everything)
    assert all(torch.equal(tensor, everything[name]) for name, tensor in some.items())
    factors = [tensor.flatten()[:40] for name, tensor in everything.items() if "q_proj.lora_A" in name]
    assert torch.corrcoef(torch.stack(factors)).triu(1).abs().max() < 0.8


def test_an_adapter_that_changed_nothing_stays_one(tmp_path: Path) -> None:
    random_adapter(save_adapter(tmp_path / "fresh", size=0.0, init_lora_weights=True), tmp_path / "random", seed=0)
    assert updates(tmp_path / "random") == {}


def test_it_is_loaded_and_merged_like_the_trained_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = LlamaForCausalLM.from_pretrained(tiny_model_folder)
    trained = save_adapter(tmp_path / "trained", model=base, target_modules="all-linear", size=0.1)
    random_adapter(trained, tmp_path / "random", seed=0)
    ids = torch.arange(5, 25)[None]

    def start() -> LlamaForCausalLM:
        return LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32).eval()

    with torch.no_grad():
        own = PeftModel.from_pretrained(start(), tmp_path / "random").eval()
        logits = own(ids).logits
        assert (logits - start()(ids).logits).abs().max() > 0.1
        torch.testing.assert_close(own.merge_and_unload()(ids).logits, logits, rtol=1e-3, atol=1e-3)


# --- directions


@pytest.mark.parametrize(("dim", "columns"), [(1, 1), (4, 4), (6, 2), (30, 7)])
def test_columns_are_orthonormal(dim: int, columns: int) -> None:
    frame = haar_frame(dim, columns, generator_of(0, "x"))
    assert frame.dtype == torch.float64
    torch.testing.assert_close(frame.T @ frame, torch.eye(columns, dtype=torch.float64), rtol=0, atol=1e-13)


def test_frames_are_uniform_in_every_entry() -> None:
    # on the sphere in three dimensions every coordinate is uniform on [-1, 1], that of the first column included
    generator = torch.Generator().manual_seed(0)
    frames = np.stack([haar_frame(3, 3, generator).numpy() for _ in range(3000)])
    for row in range(3):
        for column in range(3):
            assert stats.kstest(frames[:, row, column], "uniform", args=(-1, 2)).pvalue > 1e-3
    # turned by any fixed rotation they are the same frames: the angle of the determinant's sign is even
    assert abs((np.linalg.det(frames) > 0).mean() - 0.5) < 0.05
    assert np.abs(np.einsum("nij,nkl->ijkl", frames, frames).reshape(9, 9) / 3000 - np.eye(9) / 3).max() < 0.05


def test_every_name_and_seed_has_a_stream_of_its_own() -> None:
    streams = [torch.randn(4, generator=generator_of(seed, name)) for seed in (0, 1, -1, 2**70) for name in ("a", "b")]
    assert len({tuple(stream.tolist()) for stream in streams}) == len(streams)
    assert torch.equal(torch.randn(4, generator=generator_of(1, "a")), streams[2])


# --- refusals

DAMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "dora": (lambda f: save_adapter(f, use_dora=True), "DoRA, and .*; train with use_dora: false"),
    "saved whole": (
        lambda f: save_adapter(f, model=tiny(tie_word_embeddings=False), modules_to_save=["lm_head"]),
        "lm_head is saved whole, and .*; drop modules_to_save",
    ),
    "a bias": (
        lambda f: save_adapter(f, lora_bias=True, init_lora_weights=False),
        "lora_B.bias is 1-dimensional: not a weight matrix, and .*; train without it",
    ),
    "a start in the base": (
        lambda f: edit_config(save_adapter(save_adapter(f) / "init", seed=9).parent, init_lora_weights="pissa"),
        "its start was taken out of the base's weights, and .*; use plain LoRA",
    ),
    "not lora": (lambda f: edit_config(save_adapter(f), peft_type="IA3"), "peft_type IA3: only LoRA"),
    "no weights": (lambda f: (save_adapter(f) / WEIGHTS).unlink() or f, f"{WEIGHTS} is not in it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_more_or_less_than_factors_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    make, message = DAMAGES[damage]
    trained = make(tmp_path / "trained")
    with pytest.raises(UserError, match=message) as caught:
        random_adapter(trained, tmp_path / "random", seed=0)
    assert str(caught.value).startswith(str(trained))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]


def test_a_recorded_start_beside_a_plain_adapter_is_no_hindrance(tmp_path: Path) -> None:
    trained = save_adapter(tmp_path / "trained")
    save_adapter(trained / "init", seed=9)
    random_adapter(trained, tmp_path / "random", seed=0)
    assert sorted(files(tmp_path / "random")) == ["adapter_config.json", WEIGHTS]


def test_nothing_is_overwritten_and_nothing_is_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = save_adapter(tmp_path / "trained")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    with pytest.raises(UserError, match="full: exists already; choose another folder"):
        random_adapter(trained, tmp_path / "full", seed=0)
    assert files(tmp_path / "full") == {"notes": b"mine"}

    def fails(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(module, "save_file", fails)
    with pytest.raises(UserError, match=r"random: cannot be written \(the disk is full"):
        random_adapter(trained, tmp_path / "random", seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "trained"]


# --- whole models


def tuned_folder(folder: Path, size: float = 1e-2, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """The tiny model with every weight but the second block's moved."""
    model = tiny(**changes)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layers.1." not in name:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    model.to(dtype).save_pretrained(folder)
    return folder


def test_a_whole_model_keeps_every_changes_size(tmp_path: Path) -> None:
    base, tuned = base_folder(tmp_path / "base"), tuned_folder(tmp_path / "tuned")
    seen: list[tuple[int, int]] = []
    random_update(base, tuned, tmp_path / "random", seed=0, progress=lambda *done: seen.append(done))
    before, after, found = (load_file(f / "model.safetensors") for f in (base, tuned, tmp_path / "random"))
    assert before.keys() == after.keys() == found.keys()
    assert seen == [(k, len(found)) for k in range(1, len(found) + 1)]
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    for name, start in before.items():
        wanted, own = ((each[name].double() - start.double()).numpy() for each in (after, found))
        rounding = 1e-6 * float(start.double().norm())
        if "layers.1." in name:
            assert torch.equal(found[name], start)
        elif start.ndim == 1:
            assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(wanted), abs=rounding)
            assert abs(own @ wanted) < 0.6 * np.linalg.norm(wanted) ** 2
        else:
            values = [np.linalg.svd(each, compute_uv=False) for each in (own, wanted)]
            np.testing.assert_allclose(*values, atol=rounding)
            assert abs((own * wanted).sum()) < 0.1 * (wanted**2).sum()


def test_the_random_model_is_loaded_like_the_trained_one(tiny_model_folder: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save_pretrained(tuned)
    for file in tiny_model_folder.glob("token*"):
        (tuned / file.name).write_bytes(file.read_bytes())
    (tuned / "pytorch_model.bin").write_bytes(b"never copied")
    random_update(tiny_model_folder, tuned, tmp_path / "random", seed=0)
    made = files(tmp_path / "random")
    assert set(made) == set(files(tuned)) - {"pytorch_model.bin"}
    assert made["config.json"] == files(tuned)["config.json"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "random", local_files_only=True)
    weight = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(loaded.state_dict()[weight], load_file(tmp_path / "random" / "model.safetensors")[weight])


def test_a_start_in_memory_gives_the_bytes_of_the_same_start_on_disk(tmp_path: Path) -> None:
    base, tuned = base_folder(tmp_path / "base"), tuned_folder(tmp_path / "tuned")
    random_update(base, tuned, tmp_path / "disk", seed=5)
    random_update(tiny().state_dict(), tuned, tmp_path / "memory", seed=5)
    random_update(base, tuned, tmp_path / "other", seed=6)
    assert files(tmp_path / "disk") == files(tmp_path / "memory")
    assert files(tmp_path / "disk")["model.safetensors"] != files(tmp_path / "other")["model.safetensors"]


def test_a_stack_of_matrices_is_redrawn_matrix_by_matrix(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.randn(3, 5, 4, generator=generator) for _ in range(2)]
    for name, stack in zip(("base", "tuned"), stacks, strict=True):
        (tmp_path / name).mkdir()
        save_file({"experts": stack, "scale": stack[0, 0, 0].clone()}, tmp_path / name / "model.safetensors")
    random_update(tmp_path / "base", tmp_path / "tuned", tmp_path / "random", seed=0)
    found = load_file(tmp_path / "random" / "model.safetensors")
    wanted = torch.linalg.svdvals(stacks[1] - stacks[0])
    torch.testing.assert_close(torch.linalg.svdvals(found["experts"] - stacks[0]), wanted, rtol=1e-5, atol=1e-5)
    moved = [abs(float(each - stacks[0][0, 0, 0])) for each in (found["scale"], stacks[1][0, 0, 0])]
    assert moved[0] == pytest.approx(moved[1], abs=1e-6)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ({}, {"dtype": torch.bfloat16}, "is stored as BF16, which loses a small change; use float32"),
        ({"intermediate_size": 48}, {}, r"is \[40, 56\], and \[40, 48\] at the stage's start; give what the stage"),
        ({"num_hidden_layers": 2}, {}, "layers.2.*is no weight of the stage's start; give what the stage started from"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(
    start: dict[str, Any], end: dict[str, Any], message: str, tmp_path: Path
) -> None:
    base, tuned = base_folder(tmp_path / "base", **start), tuned_folder(tmp_path / "tuned", **end)
    with pytest.raises(UserError, match=message):
        random_update(base, tuned, tmp_path / "random", seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_the_card_copied_names_the_same_base(tmp_path: Path) -> None:
    trained = edit_config(save_adapter(tmp_path / "trained"), base_model_name_or_path="the base")
    random_adapter(trained, tmp_path / "random", seed=0)
    assert json.loads(files(tmp_path / "random")["adapter_config.json"])["base_model_name_or_path"] == "the base"
