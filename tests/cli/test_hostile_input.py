"""Wrong, damaged and hostile input to the commands that measure: one line, exit code 3, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from limberlm.files import content_digest, file_digest
from tests.cli.conftest import Limber
from tests.cli.test_errors import refused
from tests.observe.adapted import base_folder, save_adapter
from tests.study.series.series_world import write_adapter

WEIGHTS = "model.safetensors"


# --- probes


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_a_probe_that_is_no_file_is_not_read(
    limber: Limber, tmp_path: Path, tiny_model_folder: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "p.jsonl")
    line = refused(limber, "measure", tiny_model_folder, "--probe", tmp_path / "p.jsonl", "--out", tmp_path / "g")
    assert "p.jsonl: a folder, pipe or device" in line
    assert not (tmp_path / "g").exists()


def test_texts_of_nothing_but_space_are_measured(limber: Limber, tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "   "}\n{"text": "\\n\\t"}\n')
    done = limber("measure", tiny_model_folder, "--probe", tmp_path / "p.jsonl", "--out", tmp_path / "g", "--json")
    assert done.code == 0
    assert "but for rounding" in json.dumps(done.json[tiny_model_folder.name]["manifest"]["undefined"])


# --- values


@pytest.mark.parametrize("words", [("--device", "meta"), ("--device", "hpu"), ("--memory", "9" * 400 + "GB")], ids=str)
def test_a_value_that_cannot_be(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path, words: tuple[str, str]
) -> None:
    line = refused(limber, "measure", tiny_model_folder, "--probe", probe, "--out", tmp_path / "g", *words)
    assert line.startswith(words[0].removeprefix("--"))


# --- checkpoints


@pytest.fixture
def damaged(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """A copy of the tiny model with fields of its config, or some of its tensors, replaced."""

    def make(tensors: Callable[[dict[str, Any]], Any] = lambda tensors: None, **config: Any) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_model_folder, folder)
        card = folder / "config.json"
        card.write_text(json.dumps(json.loads(card.read_text()) | config))
        found = load_file(folder / WEIGHTS)
        tensors(found)
        save_file(found, folder / WEIGHTS, metadata={"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 0}, "cannot locate the blocks"),
        ({"num_hidden_layers": 3}, "9 weights are missing (model.layers.2."),
        ({"vocab_size": 7}, "1 weights have other shapes than config.json says (model.embed_tokens.weight"),
        ({"max_position_embeddings": -5}, "max_length=-5: must be at least 2"),
        ({"max_position_embeddings": None}, "Validation error for field 'max_position_embeddings': TypeError"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(
    limber: Limber, probe: Path, tmp_path: Path, damaged: Callable[..., Path], config: dict[str, Any], message: str
) -> None:
    words = ("--probe", probe, "--out", tmp_path / "g", "--layers", "0")
    assert message in refused(limber, "measure", damaged(**config), *words)


def test_a_head_that_is_not_there_gives_no_number(
    limber: Limber, probe: Path, tmp_path: Path, damaged: Callable[..., Path]
) -> None:
    folder = damaged(tie_word_embeddings=False)
    found = limber("measure", folder, "--probe", probe, "--out", tmp_path / "g", "--json").json["damaged"]
    assert "has no head" in found["manifest"]["undefined"]["logits"]
    assert not any(row["metric"].startswith("entropy") for row in found["band"])


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_nobody_is_asked_to_run_the_code_of_a_checkpoint(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """Whoever says yes, as to everything, must not be asked."""
    monkeypatch.setattr("builtins.input", lambda *question: "yes")
    folder = tmp_path / "evil"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    card = json.loads((folder / file).read_text())
    code = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", None]}
    (folder / file).write_text(json.dumps(card | {"model_type": "evil", "tokenizer_class": "Evil", "auto_map": code}))
    line = refused(limber, "measure", folder, "--probe", probe, "--out", tmp_path / "g")
    assert "contains custom code" in line
    assert not (tmp_path / "ran").exists()


# --- adapters


def _renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("base_model.model", "elsewhere"): tensor for name, tensor in tensors.items()}


WRONG_ADAPTERS = {
    "other names": (_renamed, "are missing"),
    "one factor": (lambda tensors: {name: t for name, t in tensors.items() if "lora_A" in name}, "4 weights"),
    "half its modules": (lambda tensors: {name: t for name, t in tensors.items() if "q_proj" in name}, "4 weights"),
    "nothing of an adapter": (lambda tensors: {"x": torch.zeros(1)}, "8 weights of the adapter are missing"),
    "more layers": (
        lambda tensors: (
            tensors | {n.replace("layers.1", "layers.7"): t.clone() for n, t in tensors.items() if ".1." in n}
        ),
        "4 weights of the adapter have no place in the model",
    ),
}


@pytest.mark.parametrize("name", WRONG_ADAPTERS)
def test_an_adapter_that_would_be_put_on_in_part_is_refused(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path, name: str
) -> None:
    """PEFT warns, and measures the base."""
    change, message = WRONG_ADAPTERS[name]
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", 0)
    weights = folder / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)
    words = ("--adapter", folder, "--probe", probe, "--out", tmp_path / "g")
    line = refused(limber, "measure", tiny_model_folder, *words)
    assert message in line
    assert str(folder) in line
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    "words",
    [("--seed", -1), ("--seed", 2**63), ("--adapter-rank", 0), ("--device", "meta"), ("--device", "hpu")],
    ids=str,
)
def test_a_value_out_of_range_of_updates(limber: Limber, tmp_path: Path, words: tuple[str, object]) -> None:
    folder = save_adapter(tmp_path / "sft", seed=0)
    line = refused(limber, "updates", folder, "--base", base_folder(tmp_path / "base"), *words)
    assert line.startswith(f"{words[0][2:].replace('-', '_')}={words[1]}: ")


# --- geometries whose digests hold, and whose content does not


@pytest.fixture(scope="module")
def geometry(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    from limberlm import measure
    from limberlm.observe import load_tokenizer

    rows = [{"text": f"the cat number {i} sat on the mat {i * 7}"} for i in range(40)]
    folder = tmp_path_factory.mktemp("geometry") / "tiny.geometry"
    measure(tiny_model_folder, rows, tokenizer=load_tokenizer(tiny_model_folder), metrics=["effective_rank"]).save(
        folder
    )
    return folder


def _signed(folder: Path, **changes: Any) -> None:
    """Gives a geometry's files the digests that they have."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    del manifest["files"]
    files = {name: file_digest(folder / name) for name in ("metrics.parquet", "statistics.safetensors")}
    files["manifest.json"] = content_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))


@pytest.mark.parametrize(
    "changes",
    [{"probe": []}, {"probe": {}}, {"probe": None}, {"convention": "x"}, {"checkpoint": ["x"]}, {"undefined": 1}],
    ids=str,
)
def test_a_manifest_of_other_kinds_of_values_is_refused(
    limber: Limber, geometry: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    shutil.copytree(geometry, tmp_path / "x.geometry")
    _signed(tmp_path / "x.geometry", **changes)
    assert "manifest.json: " in refused(limber, "compare", geometry, tmp_path / "x.geometry")


@pytest.mark.parametrize("column", ["site", "value", "replicates", "n_tokens"])
def test_a_table_with_holes_is_refused(limber: Limber, geometry: Path, tmp_path: Path, column: str) -> None:
    folder = tmp_path / "x.geometry"
    shutil.copytree(geometry, folder)
    table = pq.read_table(folder / "metrics.parquet")
    at = table.column_names.index(column)
    empty = pa.array([None] * len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(at, table.schema.field(column), empty), folder / "metrics.parquet")
    _signed(folder)
    assert "metrics.parquet: " in refused(limber, "compare", geometry, folder)


def test_geometries_with_no_number_in_common_are_refused(limber: Limber, geometry: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x.geometry"
    shutil.copytree(geometry, folder)
    pq.write_table(pq.read_table(folder / "metrics.parquet").slice(0, 0), folder / "metrics.parquet")
    _signed(folder)
    assert "no number in common" in refused(limber, "compare", geometry, folder)
