"""Every mistake a user can make: one line, what and where and what to do, exit code 3, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from limberlm.study import Study
from tests.cli.conftest import Limber

STAGE = {"trainer": "sft", "data": "testbed:instructions"}


def refused(limber: Limber, *words: object) -> str:
    """The one line of a command that must fail as the user's mistake."""
    done = limber(*words)
    lines = done.err.strip().splitlines()
    assert done.code == 3, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("limber: ")
    assert done.out == ""
    return lines[0].removeprefix("limber: ")


@pytest.fixture
def study(tmp_path: Path, tiny_model_folder: Path) -> Callable[..., Path]:
    """Writes a study file of one stage with some settings replaced."""

    def write(**changes: object) -> Path:
        path = tmp_path / "study.yaml"
        content = {"base": str(tiny_model_folder), "stages": {"s": STAGE}} | changes
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_a_missing_checkpoint(limber: Limber, probe: Path, tmp_path: Path) -> None:
    line = refused(limber, "measure", tmp_path / "gone", "--probe", probe, "--out", tmp_path / "g")
    assert str(tmp_path / "gone") in line
    assert not (tmp_path / "g").exists()


def test_a_folder_that_is_no_model(limber: Limber, probe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = refused(limber, "measure", tmp_path / "empty", "--probe", probe, "--out", tmp_path / "g")
    assert str(tmp_path / "empty") in line
    assert not (tmp_path / "g").exists()


def test_a_checkpoint_with_broken_weights(limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert str(broken) in refused(limber, "measure", broken, "--probe", probe, "--out", tmp_path / "g")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"text": "one"}\nnot json\n', "2"),
        ('{"text": "one"}\n{"txt": "two"}\n', "2"),
    ],
    ids=["an empty probe", "a line that is not JSON", "a row without text"],
)
def test_a_wrong_probe(limber: Limber, tmp_path: Path, tiny_model_folder: Path, content: str, message: str) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text(content)
    line = refused(limber, "measure", tiny_model_folder, "--probe", path, "--out", tmp_path / "g")
    assert "wrong.jsonl" in line
    assert message in line
    assert not (tmp_path / "g").exists()


def test_a_missing_probe(limber: Limber, tmp_path: Path, tiny_model_folder: Path) -> None:
    assert "gone.jsonl" in refused(limber, "measure", tiny_model_folder, "--probe", tmp_path / "gone.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        ("--max-length", 1),
        ("--batch-size", 0),
        ("--max-tokens", 0),
        ("--layers", "one"),
        ("--layers", 99),
        ("--dtype", "int3"),
    ],
    ids=str,
)
def test_a_value_out_of_range(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path, words: tuple[str, object]
) -> None:
    line = refused(limber, "measure", tiny_model_folder, "--probe", probe, "--out", tmp_path / "g", *words)
    assert str(words[1]) in line
    assert not (tmp_path / "g").exists()


def test_an_unknown_metric(limber: Limber) -> None:
    assert '(did you mean "rankme"?)' in refused(limber, "metrics", "rankm")


def test_an_unknown_option(limber: Limber) -> None:
    assert "--jsn" in refused(limber, "metrics", "--jsn")


def test_a_yaml_error(limber: Limber, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("stages:\n  s: [\n")
    assert "s.yaml, line 3: not valid YAML" in refused(limber, "run", path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stges": {}}, 'stges: unknown setting (did you mean "stages"?)'),
        ({"stages": {"s": STAGE | {"trainer": "sff"}}}, '(did you mean "sft"?)'),
        ({"stages": {"s": STAGE}, "orderings": [["z"]]}, 'no stage is called "z"'),
        ({"stages": {"s": STAGE | {"args": {"max_step": 3}}}}, '(did you mean "max_steps"?)'),
        ({"adapter": {"r": -1}}, "adapter.r"),
        ({"base": "nowhere"}, "nowhere"),
        ({"measure": {"probe": "nothing.jsonl"}}, "nothing.jsonl"),
        ({"stages": {"s": STAGE | {"data": "nothing.jsonl"}}}, "nothing.jsonl"),
    ],
    ids=["key", "trainer", "stage", "trainer argument", "range", "base", "probe", "data"],
)
def test_a_wrong_study(
    limber: Limber, tmp_path: Path, study: Callable[..., Path], changes: dict[str, object], message: str
) -> None:
    assert message in refused(limber, "run", study(**changes), "--out", tmp_path / "run", "-q")
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_written(limber: Limber, tmp_path: Path, study: Callable[..., Path]) -> None:
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused(limber, "run", study(), "--out", tmp_path / "file" / "run")


def test_an_unwritable_geometry_folder(limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    (tmp_path / "file").write_text("x")
    line = refused(limber, "measure", tiny_model_folder, "--probe", probe, "--out", tmp_path / "file" / "g", "-q")
    assert str(tmp_path / "file") in line


@pytest.mark.parametrize("content", ["[]", "null", "5", "{", '{"a":' * 30_000, "\0"], ids=lambda text: text[:6])
def test_settings_of_a_pretraining_that_are_none(limber: Limber, tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    words = ("--settings", tmp_path / "settings.json", "--out", tmp_path / "p")
    assert "settings.json: " in refused(limber, "pretrain", *words)
    assert not (tmp_path / "p").exists()


def test_a_folder_of_another_study(limber: Limber, tmp_path: Path, study: Callable[..., Path]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.yaml").write_text(yaml.safe_dump({"name": "other", "stages": {"s": STAGE}}))
    assert 'belongs to the study "other"' in refused(limber, "run", study(), "--out", tmp_path / "run")


def test_a_folder_that_is_no_run(limber: Limber, tmp_path: Path) -> None:
    for command in ("status", "report"):
        assert "not a run directory" in refused(limber, command, tmp_path)


def test_a_folder_that_is_no_geometry(limber: Limber, tmp_path: Path) -> None:
    assert str(tmp_path) in refused(limber, "compare", tmp_path, tmp_path)


def test_an_error_of_our_own_is_one_line_and_exit_code_1(limber: Limber, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limberlm.geometry.catalog.CATALOG", None)
    done = limber("metrics")
    assert done.code == 1
    assert len(done.err.strip().splitlines()) == 1
    assert "--debug" in done.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk(limber: Limber, probe: Path, small_disk: Path, tiny_model_folder: Path) -> None:
    (small_disk / "filler").write_bytes(b"x" * 190_000)
    line = refused(limber, "measure", tiny_model_folder, "--probe", probe, "--out", small_disk / "g", "-q")
    assert "the disk is full" in line
    assert not any((small_disk / "g").glob("*"))


def test_the_real_command_ends_with_the_code_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "limberlm", "status", str(tmp_path / "gone")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_an_interrupt_says_how_to_go_on(limber: Limber, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(root: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("limberlm.study.store.store.planned_nodes", interrupted)
    done = limber("status", tmp_path)
    assert done.code == 130
    assert done.err == "limber: stopped; run the same command again to go on\n"


def test_a_name_of_several_lines_is_told_in_one(limber: Limber, tmp_path: Path) -> None:
    assert refused(limber, "run", tmp_path / "a\nb.yaml").startswith(f"{tmp_path}/a\\nb.yaml: no such study file")


@pytest.mark.parametrize("words", [("status",), ("status", "--json")], ids=" ".join)
def test_a_reader_who_is_gone_ends_a_command_without_a_word(finished: Study, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "limberlm", *words, str(finished.out)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_output_that_cannot_be_written_is_told(finished: Study) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "limberlm", "status", str(finished.out)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "the disk is full" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["[/red]", "[red]x[/red]", ":smile:"])
def test_a_folder_whose_name_looks_like_markup_is_printed_as_it_is(limber: Limber, finished: Study, name: str) -> None:
    done = limber("run", finished.out / "study.yaml", "--out", name, "--dry-run")
    assert done.code == 0
    assert f"3 nodes, in {name}" in done.out


@pytest.mark.parametrize("words", [("status",), ("prune", "--dry-run")], ids=" ".join)
def test_a_look_at_a_run_directory_writes_nothing(
    limber: Limber, finished: Study, tmp_path: Path, words: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.out, run)
    shutil.rmtree(run / "leases")
    (run / ".lock").unlink()
    before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
    assert limber(*words, run).code == 0
    assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before


def test_a_look_at_a_run_directory_waits_for_no_library(finished: Study) -> None:
    code = (
        "import sys\nfrom limberlm.cli import main\ntry:\n    main(['status', sys.argv[1]])\n"
        "finally:\n    assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished.out)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("content", ["", "[]", '{"nodes": 1}', '{"nodes": [{}]}', "\x00"])
def test_a_damaged_plan(limber: Limber, finished: Study, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "study.yaml").write_text((finished.out / "study.yaml").read_text())
    (run / "plan.json").write_text(content)
    for command in ("status", "report", "prune"):
        assert f"{run}/plan.json: " in refused(limber, command, run)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "limberlm", "status", str(tmp_path / "gone"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert "Traceback" in done.stderr
