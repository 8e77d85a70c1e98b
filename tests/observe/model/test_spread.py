"""A model over several devices, the last of which is the disk."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor

from limberlm.errors import UserError
from limberlm.observe import load_model, measure
from limberlm.observe.model.spread import Spread
from tests.observe.tiny import assert_same_bits, mixed_probe, tiny

PROBE = mixed_probe(24)
LAYERS = 6

CASE = """
import sys
from benchmarks.harness import peak_memory
from limberlm.observe import measure
from tests.observe.tiny import mixed_probe
settings = {"layers": [3], "metrics": ["effective_rank"], "batch_size": 2}
folder, device, memory = sys.argv[1:]
found = measure(folder, mixed_probe(24), device=device, memory=memory, **settings)
print(peak_memory(), found.value("effective_rank", site="block.3"))
"""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    tiny(num_hidden_layers=LAYERS).save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > LAYERS
    return folder


def test_weights_that_no_device_holds_are_read_from_disk_and_the_numbers_are_the_same(sharded: Path) -> None:
    wide = load_model(sharded, device="auto", held=120_000)
    where = set(wide.hf_device_map.values())
    assert where == {"cpu", "disk"}
    found, plain = (measure(model, PROBE, suite="full") for model in (wide, load_model(sharded, device="cpu")))
    np.testing.assert_array_equal(found.table["metric"], plain.table["metric"])
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(found.table[column], plain.table[column], rtol=1e-9, atol=1e-12)


def test_a_model_that_fits_is_not_changed_by_it(sharded: Path) -> None:
    found = measure(sharded, PROBE, device="auto", metrics=["effective_rank", "entropy"])
    assert_same_bits(found.table, measure(sharded, PROBE, device="cpu", metrics=["effective_rank", "entropy"]).table)


def test_the_folder_for_weights_goes_with_the_model(sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    usual = Spread.__init__

    def noted(self: Spread, held: int | None) -> None:
        usual(self, held)
        folders.append(Path(self.folder.name))

    monkeypatch.setattr(Spread, "__init__", noted)
    model = load_model(sharded, device="auto", held=120_000)
    assert folders[0].is_dir()
    del model
    gc.collect()
    assert not folders[0].exists()


def test_what_cannot_be_spread_is_refused(sharded: Path) -> None:
    with pytest.raises(UserError, match="device=auto: an adapter cannot be put on weights that lie on disk; merge it"):
        load_model(sharded, adapter="somewhere", device="auto")
    with pytest.raises(UserError, match="device=auto: the model in memory is on cpu; move it, or give its path"):
        measure(tiny(), PROBE, device="auto")


def test_a_model_that_no_process_holds_whole_is_refused() -> None:
    model = tiny()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        weight = model.model.layers[1].mlp.up_proj.weight
        model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(
            distribute_tensor(weight.detach(), dist.init_device_mesh("cpu", (1,)), [Shard(0)])
        )
        with pytest.raises(UserError, match=r"model: model.layers.1.mlp.up_proj.weight is split over processes"):
            measure(model, PROBE)
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_a_model_on_disk_takes_less_memory(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 8}
    tiny(num_hidden_layers=40, **sizes).save_pretrained(tmp_path, max_shard_size="20MB")
    settings = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = []
    for device, memory in (("cpu", "800MB"), ("auto", "200MB")):
        command = [sys.executable, "-c", CASE, str(tmp_path), device, memory]
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        told.append(json.loads("[" + done.stdout.split("\n")[-2].replace(" ", ",") + "]"))
    (plain, expected), (spread, value) = told
    weights = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert plain - spread > weights / 3
    assert value == pytest.approx(expected, rel=1e-6)
