"""What is printed is what was meant, whatever the names in it and whoever reads it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from limberlm.cli.console import one_line, print_table
from tests.cli.conftest import Limber
from tests.cli.test_errors import refused

NAMES = ["[red]a", "a[/x]", "[bold]", ":x:", "[link=a]b[/link]", "a&b<c>", "x" * 600]


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "limberlm", *map(str, words)]


@given(st.text())
def test_text_from_outside_stays_on_its_line_and_gives_no_orders(text: str) -> None:
    shown = one_line(text)
    assert all(c.isprintable() or c == "\xa0" for c in shown)
    assert one_line(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_names_as_they_are(capfd: pytest.CaptureFixture[str], name: str) -> None:
    print_table(name, [name, "b"], [[name, name]])
    printed = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert printed == [[name], [name, "b"], [name, name]]


def test_orders_to_the_terminal_in_a_table_are_spelled_out(capfd: pytest.CaptureFixture[str]) -> None:
    print_table("a\x1b[31m", ["b\n"], [["\u202ec"]])
    assert capfd.readouterr().out.split() == [r"a\x1b[31m", r"b\n", r"\u202ec"]


@pytest.mark.parametrize("name", [*NAMES[:-1], "a\nb", "a\x1b[31mb", "\u202eb", "méß 漢字"])
def test_an_error_names_the_file_as_it_is_called(limber: Limber, name: str) -> None:
    assert refused(limber, "compare", f"gone/{name}", "b").startswith(one_line(f"gone/{name}/manifest.json: no such"))


def test_checkpoints_of_strange_names_are_measured_and_compared(
    limber: Limber, probe: Path, tmp_path: Path, tiny_model_folder: Path
) -> None:
    names = ("[red]a", "b[bold]:x:\n")
    for name in names:
        shutil.copytree(tiny_model_folder, tmp_path / name)
    done = limber("measure", *(tmp_path / name for name in names), "--probe", probe, "--out", tmp_path / "g")
    assert done.code == 0
    assert all(one_line(name) in done.out for name in names)
    flags = [line for line in done.err.splitlines() if "intervals are rough" in line or "plug-in" in line]
    assert all(line.startswith(tuple(map(one_line, names))) for line in flags)  # a note is one line, however long
    compared = limber("compare", *(tmp_path / "g" / f"{name}.geometry" for name in names)).out
    assert r"b[bold]:x:\n.geometry against [red]a.geometry" in compared


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("measure", "m", "--out", ""), "--out"),
        (("measure", "m", "--out="), "--out="),
        (("compare", "", "b"), "compare"),
        (("metrics", ""), "metrics"),
        (("",), "the command"),
    ],
)
def test_an_empty_word_is_a_variable_that_is_not_set(limber: Limber, words: tuple[str, ...], named: str) -> None:
    assert refused(limber, *words) == f"{named}: followed by nothing; give a value, or leave it out"


@pytest.mark.parametrize("words", [("metrics",), ("metrics", "--json"), ("--help",)], ids=" ".join)
def test_whoever_stops_reading_is_no_error(words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command(*words), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_under_the_output_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("metrics"), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        "limber: the output folder: the disk is full; free some space and run the same command again\n"
    )


def test_nobody_listening_changes_nothing() -> None:
    shut = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command("metrics")], check=False)
    assert shut.returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "kill"])
def test_stopped_it_says_so_and_leaves_no_draft(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "rows.jsonl"
    words = command("testbed", "arithmetic", "--rows", 10**9, "--repeats", "--out", out)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # what runs in the background of a shell is born deaf to Ctrl-C
    with subprocess.Popen(words, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL), **pipes) as process:
        while not any(tmp_path.iterdir()):
            time.sleep(0.01)
        process.send_signal(number)
        printed, told = process.communicate()
    assert (process.returncode, printed) == (code, "")
    assert told == "limber: stopped; run the same command again to go on\n"
    assert not any(tmp_path.iterdir())


def test_json_is_piped_whole(limber: Limber) -> None:
    assert json.loads(limber("metrics", "--json").out)


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_a_narrow_terminal_folds_numbers_and_cuts_none(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, width=columns, force_terminal=True, color_system=None)
    monkeypatch.setattr("limberlm.cli.console.out", terminal)
    monkeypatch.setattr("limberlm.cli.console._Plain", lambda width: terminal)
    cells = [f"{number}.{number}{number} %" for number in range(10, 19)]
    print_table("title", list("abcdefghi"), [cells])
    digits = re.sub(r"\x1b\[\d*m", "", shown.getvalue())
    assert "…" not in digits
    assert Counter(re.sub(r"\D", "", digits)) == Counter(re.sub(r"\D", "", "".join(cells)))
