"""What earlier stages changed, from their adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from limberlm.errors import UserError
from limberlm.interventions.decorrelation import UpdateDecorrelation
from limberlm.interventions.decorrelation.adapters import Pool, packed
from limberlm.interventions.seats.factors import Factors
from tests.stages.runs import lora, update

MODULE = "model.layers.0.self_attn.q_proj"
LIKE = torch.zeros(())


@pytest.fixture(scope="module")
def adapter(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes adapters of random factors."""
    made = tmp_path_factory.mktemp("adapters")

    def make(seed: int = 0, **settings: object) -> Path:
        folder = made / str(len(list(made.iterdir())))
        return lora(tiny_model_folder, folder, seed, **settings).folder

    return make


def on(module: str = MODULE, d_out: int = 32, d_in: int = 32, r: int = 4) -> list[Factors]:
    return [Factors(module, "A", "B", 2.0, (d_out, r, d_in))]


def renamed(folder: Path, base: str) -> Path:
    card = folder / "adapter_config.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"base_model_name_or_path": base}))
    return folder


def test_changes_are_scale_times_b_a(adapter: Callable[..., Path]) -> None:
    folders = [
        adapter(1, r=2, lora_alpha=3),
        adapter(2, r=6, lora_alpha=5, use_rslora=True),
        adapter(3, rank_pattern={"q_proj": 5}, alpha_pattern={"q_proj": 7}),
    ]
    for change, folder in zip(Pool.open(folders).changes(MODULE), folders, strict=True):
        wanted = update(folder)[f"{MODULE}.weight"]
        if folder is folders[2]:
            wanted = wanted * (7 / 5) / (6 / 3)
        assert torch.allclose(change.dense(), wanted, atol=1e-12)
    past = packed([Pool.open(folders).changes(MODULE)], 1, LIKE)
    assert past.left.dtype == past.right.dtype == torch.float32
    assert past.ranks().tolist() == [[2, 6, 5]]
    whole = (past.left * past.values.float()[:, None]) @ past.right
    assert torch.allclose(
        whole[0].double(), sum(each.dense() for each in Pool.open(folders).changes(MODULE)), atol=1e-6
    )


def test_of_continued_adapters_each_stage_s_change_is_the_difference(adapter: Callable[..., Path]) -> None:
    folders = [adapter(1), adapter(2), adapter(3, r=5)]
    matrices = [update(folder)[f"{MODULE}.weight"] for folder in folders]
    changes = Pool.open(folders, continued=True).changes(MODULE)
    for change, wanted in zip(
        changes, [matrices[0], matrices[1] - matrices[0], matrices[2] - matrices[1]], strict=True
    ):
        assert torch.allclose(change.dense(), wanted, atol=1e-12)
    same = Pool.open([folders[0], folders[0]], continued=True).changes(MODULE)
    assert same[1] is None  # a stage that changed nothing


def test_a_module_that_one_stage_lacks_is_that_of_the_others(adapter: Callable[..., Path]) -> None:
    pool = Pool.open([adapter(1, target_modules=["q_proj"]), adapter(2)])
    assert [each is None for each in pool.changes("model.layers.0.mlp.up_proj")] == [True, False]
    past = packed([pool.changes(MODULE), pool.changes("model.layers.1.self_attn.k_proj")], 2, LIKE)
    assert past.share.tolist() == [[0.25, 0.25], [0.0, 0.5]]


def test_rows_are_those_of_a_one_below_the_other(adapter: Callable[..., Path]) -> None:
    folders = [adapter(1, r=2), adapter(2, r=5, target_modules=["q_proj"])]
    assert Pool.open(folders).rows(MODULE).shape == (7, 32)
    assert Pool.open(folders).rows("model.layers.0.mlp.down_proj").shape == (2, 64)
    assert len(Pool.open(folders[1:]).rows("model.layers.0.mlp.down_proj")) == 0


# --- refusals


def refused(message: str, make: Callable[[], object]) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith("decorrelation: ")
    assert "\n" not in str(error.value)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_no_adapters_are_refused(adapter: Callable[..., Path]) -> None:
    refused("past=[]: give a list of the folders", lambda: UpdateDecorrelation(past=[]))
    refused("give a list of the folders", lambda: UpdateDecorrelation(past=str(adapter())))


def test_what_is_no_plain_adapter_is_refused_by_its_path(adapter: Callable[..., Path], tmp_path: Path) -> None:
    refused("nowhere: no such folder", lambda: UpdateDecorrelation(past=[tmp_path / "nowhere"]))
    dora = adapter(use_dora=True)
    refused(f"{dora}: use_dora: a DoRA adapter changes more than B A", lambda: UpdateDecorrelation(past=[dora]))
    pickled = Path(shutil.copytree(adapter(), tmp_path / "pickled"))
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refused("pickled: adapter_model.safetensors is not in it", lambda: UpdateDecorrelation(past=[pickled]))


def test_adapters_of_other_bases_are_refused_with_both_names_unless_the_base_is_said(
    adapter: Callable[..., Path],
) -> None:
    one, two = renamed(adapter(1), "org/one"), renamed(adapter(2), "org/two")
    refused("org/two ... org/one ... base=", lambda: UpdateDecorrelation(past=[one, two]))
    assert UpdateDecorrelation(past=[one, two], base="org/one").pool.base == "org/one"
    with pytest.raises(UserError, match=r"was trained on org/one, and this model on org/three"):
        Pool.open([one]).refuse_other_model(on(), "org/three")
    for name in ("", "org/one"):
        Pool.open([one]).refuse_other_model(on(), name)


def test_a_folder_is_the_same_base_however_it_is_written(
    adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    Pool.open([renamed(adapter(), "base")]).refuse_other_model(on(), str(tmp_path / "base"))


def test_adapters_of_other_modules_are_refused_with_both_named(adapter: Callable[..., Path]) -> None:
    pool = Pool.open([adapter(target_modules=["q_proj"])])
    with pytest.raises(UserError, match=r"adapts model.layers.0.self_attn.q_proj, ... and the trained adapter other,"):
        pool.refuse_other_model(on("other"), "")
    with pytest.raises(UserError, match=r"q_proj is \[32, 32\], and in this model \[48, 32\]; the adapter belongs to"):
        pool.refuse_other_model(on(d_out=48), "")
