"""`limber measure` where torchrun or accelerate launch starts it several times: one voice, one result, one end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from limberlm.cli import exits
from tests.cli.conftest import Limber

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
LOST = f"limber: {exits.LOST}"


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    _prepare(folder, tiny_model_folder)
    quiet = {"TORCH_CPP_LOG_LEVEL": "FATAL"}  # as the command sets it, which is too late for those who are forked
    command = [sys.executable, "-m", "tests.cli.launched", str(folder)]
    subprocess.run(command, check=True, env=ENVIRONMENT | quiet)
    return folder


def _prepare(folder: Path, model: Path) -> None:
    """A model, a damaged one, and a probe."""
    for name in ("good", "bad"):
        shutil.copytree(model, folder / name)
    weights = load_file(folder / "bad" / "model.safetensors")
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, folder / "bad" / "model.safetensors", metadata={"format": "pt"})
    rows = [{"text": f"the cat number {i} sat on mat {i * 7}", "domain": "ab"[i % 2]} for i in range(40)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _ended(folder: Path, name: str) -> tuple[list[int], str, str]:
    """The codes of both processes, and all that they printed."""
    out, err = ("".join((folder / f"{name}.{rank}.{kind}").read_text() for rank in (0, 1)) for kind in ("out", "err"))
    return json.loads((folder / "codes.json").read_text())[name], out, err


def test_the_result_is_that_of_one_process_and_printed_once(launched: Path, limber: Limber) -> None:
    codes, out, _ = _ended(launched, "measured")
    assert codes == [0, 0]
    words = ["measure", launched / "good", "--probe", launched / "texts.jsonl"]
    alone = limber(*words, "--out", launched / "one", "--json")
    told, expected = json.loads(out)["good"], alone.json["good"]
    assert told["band"] == expected["band"]
    assert (launched / "measured.1.out").read_text() == ""
    for name in ("metrics.parquet", "statistics.safetensors"):
        one, several = (launched / where / "good.geometry" / name for where in ("one", "measured out"))
        assert one.read_bytes() == several.read_bytes()


@pytest.mark.parametrize(
    ("name", "codes", "said"),
    [
        ("damaged", [3, 0], "limber: final_norm: states are NaN or infinite in batch"),
        ("missing", [3, 0], "limber: nowhere.jsonl: no such file"),
        ("typed", [3, 0], 'limber: --layers "two": give block numbers'),
        ("unwritable", [3, 0], "limber: unwritable out"),
        ("other", [3, 0], "limber: compare: started 2 times at once (WORLD_SIZE=2)"),
        ("lost", [1, -9], LOST),
        ("lost first", [-9, 1], LOST),
    ],
)
def test_a_failure_of_any_process_is_one_line_and_ends_all(
    launched: Path, name: str, codes: list[int], said: str
) -> None:
    found, out, err = _ended(launched, name)
    assert found == codes
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == 1
    written = launched / f"{name} out"
    left = [path.name for path in written.iterdir()] if written.is_dir() else []
    assert left == (["good.geometry"] if name == "damaged" else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--nproc-per-node", "3"],
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_launchers_give_the_table_of_one_process(
    launcher: list[str], tmp_path: Path, tiny_model_folder: Path, limber: Limber
) -> None:
    _prepare(tmp_path, tiny_model_folder)
    words = ["measure", str(tmp_path / "good"), "--probe", str(tmp_path / "texts.jsonl"), "--suite", "full", "--out"]
    command = [sys.executable, "-m", *launcher, "-m", "limberlm", *words, str(tmp_path / "several")]
    subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert limber(*words, tmp_path / "one").code == 0
    one, several = (tmp_path / where / "good.geometry" / "metrics.parquet" for where in ("one", "several"))
    assert one.read_bytes() == several.read_bytes()
