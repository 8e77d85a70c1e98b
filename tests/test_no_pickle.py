"""Nothing of ours is a pickle, runs what it reads, or asks the network unless it was told to."""

from __future__ import annotations

import ast
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import limberlm
from limberlm.study import Study
from tests.hostile.world import GEOMETRY, MODEL, POLICY, PROBE, build, study, write_yaml

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


WATCHED = """
import json, socket, sys

asked = []

def refuse(*where, **more):
    asked.append(repr(where[:1]))
    raise OSError("no network here")

def connect(self, address):
    if self.family != socket.AF_UNIX:
        refuse(address)

socket.getaddrinfo = socket.create_connection = refuse
socket.socket.connect = socket.socket.connect_ex = connect
from limberlm.cli import main

codes = []
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as stopped:
        codes.append(stopped.code)
print(json.dumps({"codes": codes, "asked": asked}), file=sys.stderr)
"""


def watched(*commands: list[object]) -> dict[str, list[object]]:
    """Commands in a process that reaches no other machine: their exit codes, and whom it would have asked."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    left_out = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-c", WATCHED, words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return json.loads(done.stderr.splitlines()[-1])


def test_local_input_asks_nobody(tmp_path: Path, tiny_model_folder: Path) -> None:
    root = build(tmp_path, tiny_model_folder).root
    written = write_yaml(tmp_path / "s.yaml", study(root / MODEL))
    found = watched(
        ["measure", root / MODEL, "--probe", root / PROBE, "--adapter", root / "adapter", "--out", root / "m"],
        ["compare", root / GEOMETRY, root / GEOMETRY],
        ["gate", root / GEOMETRY, root / GEOMETRY, "--policy", write_yaml(tmp_path / "p.yaml", POLICY)],
        ["updates", root / "updates", "--out", root / "u.parquet"],
        ["run", written, "--out", root / "new", "-q"],
        ["report", root / "new"],
    )
    assert found["asked"] == []
    measured, compared, gated, *others = found["codes"]
    assert (measured, compared, *others) == (0,) * 5
    assert gated in (0, 2, 4)


def test_a_hub_id_does_ask() -> None:
    found = watched(["updates", "nobody/nothing"])
    assert found["codes"] == [3]
    assert found["asked"]
