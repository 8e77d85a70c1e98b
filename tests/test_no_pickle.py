"""Nothing of ours is a pickle, runs what it reads, or asks the network unless it was told to."""

from __future__ import annotations

import ast
import pickletools
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import limberlm
from limberlm.study import Study
from tests.cli import conftest
from tests.hostile.world import GEOMETRY, MODEL, PROBE, World, build, study, write_yaml

limber = conftest.limber
SOURCE = Path(limberlm.__file__).parent
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "yaml.load_all"}
ALLOWED = {
    ("settings_file.py", "yaml.load"),  # with a SafeLoader of our own
    ("testbed/programs.py", "compile"),
}
"""Each seen by a person."""
NO_PICKLE = {"allow_pickle": False}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield str(path.relative_to(SOURCE)), ast.parse(path.read_text(encoding="utf-8"))


def test_the_source_neither_unpickles_nor_evaluates() -> None:
    found = []
    for name, tree in sources():
        for node in ast.walk(tree):
            modules = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [(name, module) for module in modules if module.partition(".")[0] in FORBIDDEN]
        for called, node in calls(tree):
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            bad = called in CALLS or called.endswith(("read_pickle", "to_pickle", "FullLoader", "UnsafeLoader"))
            bad |= called in ("yaml.load", "yaml.full_load", "yaml.unsafe_load")
            bad |= given.get("shell", "False") != "False" or given.get("trust_remote_code", "False") != "False"
            bad |= called in ("np.load", "np.save", "numpy.load") and given.get("allow_pickle") != "False"
            found += [(name, called)] if bad else []
    assert set(found) <= ALLOWED, sorted(set(found) - ALLOWED)
    assert {name for name, _ in ALLOWED} <= {name for name, _ in sources()}


def is_pickle(path: Path) -> bool:
    """Whether a file could be unpickled: one pickle, or a zip that holds one, as torch writes it."""
    if zipfile.is_zipfile(path):
        return True
    data = path.read_bytes()
    if not data.startswith(b"\x80") and b"\n." not in data[-3:]:
        return False
    try:
        return any(op.name == "STOP" for op, _, _ in pickletools.genops(data))
    except (ValueError, IndexError, UnicodeDecodeError, KeyError):
        return False


def test_a_pickle_is_known_when_it_is_seen(tmp_path: Path) -> None:
    import torch

    torch.save({"a": 1}, tmp_path / "torch.pt")
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert is_pickle(tmp_path / "torch.pt")
    assert is_pickle(tmp_path / "old.pt")


def test_no_file_of_a_run_is_a_pickle(finished: Study) -> None:
    files = [path for path in finished.out.rglob("*") if path.is_file()]
    assert {".safetensors", ".parquet", ".json"} <= {path.suffix for path in files}
    assert [path for path in files if is_pickle(path)] == []


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to reach another machine, which fails."""
    asked: list[object] = []

    def refuse(*where: object, **more: object) -> None:
        asked.append(where)
        raise OSError("no network here")

    def connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            refuse(address)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False, raising=False)
        monkeypatch.setattr(f"{module}._is_offline_mode", False, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    return asked


def test_local_input_asks_nobody(
    limber: conftest.Limber, tmp_path: Path, tiny_model_folder: Path, no_network: list[object]
) -> None:
    world: World = build(tmp_path, tiny_model_folder)
    root = world.root
    written = write_yaml(tmp_path / "s.yaml", study(root / MODEL))
    for words in (
        ["measure", root / MODEL, "--probe", root / PROBE, "--adapter", root / "adapter", "--out", root / "m"],
        ["compare", root / GEOMETRY, root / GEOMETRY],
        ["gate", root / GEOMETRY, root / GEOMETRY],
        ["updates", root / "updates", "--out", root / "u.parquet"],
        ["run", written, "--out", root / "new", "-q"],
        ["report", root / "new"],
        ["analyze", root / "run"],
    ):
        done = limber(*words)
        assert done.code in (0, 2, 3, 4), done.err
        assert words[0] in ("analyze", "gate") or done.code == 0, done.err
    assert no_network == []


def test_a_hub_id_does_ask(limber: conftest.Limber, tmp_path: Path, no_network: list[object]) -> None:
    (tmp_path / "p.jsonl").write_text('{"text": "a b c"}\n')
    assert limber("measure", "nobody/nothing", "--probe", tmp_path / "p.jsonl", "--out", tmp_path / "g").code == 3
    assert no_network
